# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Patch tokens that stay on the GPU between encoder and language model in one process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

FRAMES = 8
"""So many are kept; the language model reads one of the newest."""

FrameKey = tuple[str, int]
"""Run and sequence number of an embedding."""


class Handover:
    """What the encoder left on the device, by frame; for any thread."""

    def __init__(self) -> None:
        """Start with nothing, and nobody who reads."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[FrameKey, Any] = OrderedDict()
        self.wanted = False
        """Whether somebody in this process reads; else nothing need be kept."""

    def put(self, frame: FrameKey, tokens: Any) -> None:
        """Keep the tokens of a frame; the oldest are dropped."""
        with self._lock:
            self._kept[frame] = tokens
            while len(self._kept) > FRAMES:
                self._kept.popitem(last=False)

    def get(self, frame: FrameKey | None) -> Any:
        """The tokens of a frame; None where they are not here."""
        with self._lock:
            return None if frame is None else self._kept.get(frame)


TOKENS = Handover()
"""Of this process."""
