# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The newest frame as the language model has read it, once for all who ask about it."""

from __future__ import annotations

import threading
from typing import Any, Generic

from vlm_perception.perception.language.interface import Language, SeenT
from vlm_perception.types import Embedding

Frame = tuple[str, int, int, float]


class NewestSeen(Generic[SeenT]):
    """Keeps the frame that was read last; for any thread.

    What is kept is shared: an image prefix is read, and only a `branch` of it written to.
    """

    def __init__(self, language: Language[SeenT, Any]) -> None:
        """Start with none."""
        self._language = language
        self._lock = threading.Lock()
        self._kept: tuple[Frame, SeenT] | None = None

    def of(self, embedding: Embedding, share: float = 1.0) -> SeenT:
        """Return this frame, read as `Language.read` does unless it is kept."""
        share = share if self._language.shrinks_images else 1.0
        frame = (embedding.run_id, embedding.sequence, embedding.stamp_ns, share)
        with self._lock:
            kept = self._kept
        if kept is not None and kept[0] == frame:
            return kept[1]
        seen = self._language.read(embedding, share)
        with self._lock:
            self._kept = (frame, seen)
        return seen
