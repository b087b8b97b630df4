# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The image prefix of the newest frame, prefilled once for all who ask about it."""

from __future__ import annotations

import threading

from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.types import Embedding

Frame = tuple[str, int, int]


class NewestPrefix:
    """Keeps the prefix of the frame that was prefilled last; for any thread.

    What is kept is shared: read it, and write to a `branch` of it only.
    """

    def __init__(self, language: LanguageModel) -> None:
        """Start with none."""
        self._language = language
        self._lock = threading.Lock()
        self._kept: tuple[Frame, Prefix] | None = None

    def of(self, embedding: Embedding) -> Prefix:
        """Return the prefix of this frame, read as `LanguageModel.read` does unless it is kept."""
        frame = (embedding.run_id, embedding.sequence, embedding.stamp_ns)
        with self._lock:
            kept = self._kept
        if kept is not None and kept[0] == frame:
            return kept[1]
        prefix = self._language.read(embedding)
        with self._lock:
            self._kept = (frame, prefix)
        return prefix
