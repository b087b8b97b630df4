# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Patch tokens that stay on the GPU between encoder and language model in one process.

Both get the same `DeviceTokens`. A reader that finds none there reads those of the embedding, which
has them as well. So readers need not register: reading is noticed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from vlm_perception.perception.details import FrameKey

FRAMES = 8
"""So many are kept; the language model reads one of the newest."""
UNREAD_FRAMES = 256
"""Number of unread frames after which none is kept until the next read: the language model has been
deactivated or is gone, or looks so seldom that a copy of each frame costs more than it saves."""


class DeviceTokens:
    """What the encoder left on the device, by frame; for any thread."""

    def __init__(self) -> None:
        """Start empty and without readers."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[FrameKey, Any] = OrderedDict()
        self._unread = UNREAD_FRAMES

    @property
    def wanted(self) -> bool:
        """Whether there is a reader; else nothing need be kept."""
        return self._unread < UNREAD_FRAMES

    def put(self, frame: FrameKey, tokens: Any) -> None:
        """Keep the tokens of a frame; the oldest are dropped, and all of them without a reader."""
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
