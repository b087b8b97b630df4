# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The image prefix of the newest frame, prefilled once for all who ask about it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.types import Embedding

Frame = tuple[str, int, int]


class BundleMismatchError(VlmPerceptionError):
    """An embedding was made by another bundle than the one that is to read it."""


class EmbeddingError(VlmPerceptionError):
    """An embedding holds numbers that no encoder gives."""


def require_readable(embedding: Embedding, bundle: ModelBundle) -> None:
    """Refuse an embedding that is not one of the bundle's; its patch tokens are not looked at.

    Raises:
        BundleMismatchError: the embedding comes from another bundle.
        EmbeddingError: the pooled embedding holds NaN or infinity, or has another width.
    """
    if embedding.bundle_digest != bundle.digest:
        raise BundleMismatchError(
            f"the embedding was made by bundle {embedding.bundle_digest[:12]} and this node has "
            f"{bundle.digest[:12]} ({bundle.manifest.name}); start both nodes with the same bundle"
        )
    width = bundle.manifest.vision.embedding_width
    if embedding.pooled.shape != (width,):
        raise EmbeddingError(
            f"the embedding has the shape {list(embedding.pooled.shape)} and those of this bundle "
            f"have [{width}]; the encoder or the message is broken"
        )
    _require_finite(embedding.pooled, "the embedding")


def _require_finite(values: NDArray[Any], what: str) -> None:
    if not np.isfinite(values).all():
        raise EmbeddingError(
            f"{what} holds NaN or infinity; the encoder's engine or the message is broken"
        )


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
        """Return the prefix of this frame; prefill it unless it is the one that is kept.

        Raises:
            EmbeddingError: the tokens hold NaN or infinity.
            PromptError: there are more tokens than the bundle was made for.
            EngineError: the tokens have another width.
        """
        frame = (embedding.run_id, embedding.sequence, embedding.stamp_ns)
        with self._lock:
            kept = self._kept
        if kept is not None and kept[0] == frame:
            return kept[1]
        _require_finite(embedding.tokens, "a patch token")
        prefix = self._language.prefill(embedding.tokens, (embedding.run_id, embedding.sequence))
        with self._lock:
            self._kept = (frame, prefix)
        return prefix
