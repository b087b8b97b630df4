# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Patch tokens that stay on the GPU between encoder and language model in one process.

Both are given the same `DeviceTokens`. Who finds none there reads those of the embedding, which has
them all the same. So nobody needs to say that they begin or end to read: that they do is seen.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from vlm_perception.perception.details import FrameKey

FRAMES = 8
"""So many are kept; the language model reads one of the newest."""
PATIENCE = 256
"""Frames that nobody has read one of, after which none is kept until somebody asks again: the
language model has been deactivated or is gone, or looks so seldom that a copy of each frame costs
more than it saves."""


class DeviceTokens:
    """What the encoder left on the device, by frame; for any thread."""

    def __init__(self) -> None:
        """Start with nothing, and nobody who reads."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[FrameKey, Any] = OrderedDict()
        self._unread = PATIENCE

    @property
    def wanted(self) -> bool:
        """Whether somebody reads; else nothing need be kept."""
        return self._unread < PATIENCE

    def put(self, frame: FrameKey, tokens: Any) -> None:
        """Keep the tokens of a frame; the oldest are dropped, and all where nobody reads."""
        with self._lock:
            self._kept[frame] = tokens
            self._unread += 1
            while len(self._kept) > (FRAMES if self.wanted else 0):
                self._kept.popitem(last=False)

    def get(self, frame: FrameKey) -> Any:
        """The tokens of a frame, and keep those to come; None where they are not here."""
        with self._lock:
            self._unread = 0
            return self._kept.get(frame)
