# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an embedding is one of the bundle's, before a language model reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.types import FUSED_TOKEN, Embedding


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
            f"the embedding is from bundle {embedding.bundle_digest[:12]} but this node has "
            f"{bundle.digest[:12]} ({bundle.manifest.name}); start both nodes with the same bundle"
        )
    width = bundle.manifest.vision.embedding_width
    if embedding.pooled.shape != (width,):
        raise EmbeddingError(
            f"the embedding has shape {list(embedding.pooled.shape)} but this bundle's have "
            f"[{width}]; the encoder or the message is broken"
        )
    require_finite(embedding.pooled, "the embedding")


def places_of(token_index: NDArray[np.uint16], tokens: int, cells: int) -> NDArray[np.int64]:
    """Places of an image's tokens as a projector reads them, [1, K]; -1 for a fused one.

    Args:
        token_index: [K], as the encoder gives it.
        tokens: of the image.
        cells: of the grid.

    Raises:
        EmbeddingError: there is not one for each token, or one is outside the grid.
    """
    fused = token_index == FUSED_TOKEN
    if token_index.shape != (tokens,) or not (token_index[~fused] < cells).all():
        raise EmbeddingError(
            f"the {tokens} patch tokens have {token_index.size} places, or one outside the "
            f"{cells} patches of this bundle; the encoder or the message is broken"
        )
    return np.where(fused, -1, token_index.astype(np.int64))[np.newaxis]


def require_finite(values: NDArray[Any], what: str) -> None:
    """Refuse what no encoder gives.

    Args:
        values: of any shape.
        what: names them in the error.

    Raises:
        EmbeddingError: they hold NaN or infinity.
    """
    if not np.isfinite(values).all():
        raise EmbeddingError(
            f"{what} contains NaN or infinity; the encoder's engine or the message is broken"
        )
