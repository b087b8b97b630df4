# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The last images of each camera that a served model has analysed, for requests with several."""

from __future__ import annotations

import threading
from collections import OrderedDict

HORIZON_NS = 10_000_000_000
"""Older images, by the stamps, say nothing of the present."""
RUNS = 16
"""Runs of encoders whose images are kept: those of as many cameras."""

Seen = tuple[int, str]
"""Stamp and image."""


class ShownBefore:
    """Remembers images; for any thread."""

    def __init__(self, frames: int) -> None:
        """Remember none yet.

        Args:
            frames: images in a request, the frame's own included.
        """
        self._before = frames - 1
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, list[Seen]] = OrderedDict()

    def of(self, run_id: str, stamp_ns: int) -> tuple[str, ...]:
        """Return the images that belong before a frame, the oldest first.

        Images from after the frame, from long before it, or of another run of the encoder are no
        past of it; nor is any where a stamp is unknown.
        """
        with self._lock:
            return tuple(image for _, image in self._past(run_id, stamp_ns))

    def add(self, run_id: str, stamp_ns: int, image: str) -> None:
        """Remember the image of a frame, and forget what is no past of it."""
        if not self._before:
            return
        with self._lock:
            past = self._past(run_id, stamp_ns)
            self._runs.pop(run_id, None)
            self._runs[run_id] = [*past, (stamp_ns, image)]
            while len(self._runs) > RUNS:
                self._runs.popitem(last=False)

    def _past(self, run_id: str, now_ns: int) -> list[Seen]:
        seen = self._runs.get(run_id, [])
        past = [each for each in seen if now_ns and 0 < now_ns - each[0] <= HORIZON_NS]
        return past[-self._before :] if self._before else []
