# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The last pictures of each camera that a served model was shown, for requests with several."""

from __future__ import annotations

import threading
from collections import OrderedDict

from vlm_perception.types import Embedding

HORIZON_NS = 10_000_000_000
"""Older pictures, by the stamps, say nothing of the present."""
RUNS = 16
"""Runs of encoders whose pictures are kept: those of as many cameras."""

Seen = tuple[int, str]
"""Stamp and picture."""


class ShownBefore:
    """Remembers pictures; for any thread."""

    def __init__(self, frames: int) -> None:
        """Remember none yet.

        Args:
            frames: pictures in a request, the frame's own included.
        """
        self._before = frames - 1
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, list[Seen]] = OrderedDict()

    def and_now(self, embedding: Embedding, picture: str) -> tuple[str, ...]:
        """Return the pictures of a request about a frame, the oldest first, and remember it.

        Pictures from after the frame, from long before it, or of another run of the encoder are no
        past of it; nor is any where a stamp is unknown.
        """
        if not self._before:
            return (picture,)
        now_ns = embedding.stamp_ns
        with self._lock:
            seen = self._runs.pop(embedding.run_id, [])
            past = [each for each in seen if now_ns and 0 < now_ns - each[0] <= HORIZON_NS]
            past = past[-self._before :]
            self._runs[embedding.run_id] = [*past, (now_ns, picture)]
            while len(self._runs) > RUNS:
                self._runs.popitem(last=False)
        return (*(each[1] for each in past), picture)
