# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether vision_encoder keeps up with its camera, and if not, why."""

from __future__ import annotations

from vlm_perception.nodes.base.diagnostics import Meter
from vlm_perception.perception.fusion.ages import LATE_S

DROPPED_SHARE = 0.5
"""Of a camera that is twice as fast as needed each second image may go."""
FEWEST = 10
"""With fewer images within the meters' window no share is reported."""
BUSY = 2.0
"""An image that takes this many times what it takes alone is delayed by others."""


class EncoderPace:
    """Images that came and were dropped, and what those that were encoded took."""

    def __init__(self, alone_s: float) -> None:
        """Begin to count.

        Args:
            alone_s: what an image was measured to take at configure.
        """
        self._alone_s = alone_s
        self._arrived, self._dropped, self._encoded = Meter(), Meter(), Meter()

    def restart(self) -> None:
        """Forget what was counted, and count from now on."""
        for meter in (self._arrived, self._dropped, self._encoded):
            meter.restart()

    def arrive(self, drops: bool) -> None:
        """Count an image, and whether one before it was dropped for it."""
        self._arrived.add()
        if drops:
            self._dropped.add()

    def encode(self, seconds: float) -> None:
        """Count an image that was encoded, which took so long."""
        self._encoded.add(seconds)

    def describe(self) -> str:
        """Say what an image takes on this machine."""
        return (
            f"an image takes {1e3 * self._alone_s:.0f} ms on this machine: at most "
            f"{1.0 / max(self._alone_s, 1e-6):.1f} a second are encoded, and of a faster camera "
            "the others are dropped"
        )

    def too_slow(self) -> str:
        """Say that each image is old when it is encoded; empty: it is not."""
        if self._alone_s <= LATE_S:
            return ""
        return (
            f"each image is {self._alone_s:.1f} s old when it is encoded, and scenes are DEGRADED "
            f"after {LATE_S:g} s: use more threads, another engine or a smaller bundle"
        )

    def concern(self) -> str:
        """Say that most images are dropped, with cause and remedy; empty: most are encoded."""
        rate, dropped = self._arrived.rate(), self._dropped.rate()
        if dropped <= DROPPED_SHARE * rate or self._arrived.recent() < FEWEST:
            return ""
        taken = self._encoded.percentile(50)
        if taken is None:
            return ""
        said = (
            f"{dropped:.1f} of {rate:.1f} images a second are dropped, since an image takes "
            f"{1e3 * taken:.0f} ms"
        )
        if taken > BUSY * self._alone_s:
            return f"{said}, and {1e3 * self._alone_s:.0f} ms at configure: others take the cores"
        return f"{said}: use more threads, another engine, a smaller bundle or a slower camera"
