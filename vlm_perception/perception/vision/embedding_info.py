# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a reader of embeddings must know to use their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.vision.encoder import VisionEncoder


def embedding_info_fields(bundle: ModelBundle, encoder: VisionEncoder) -> dict[str, Any]:
    """The fields of the message EmbeddingInfo, but for header and run; arrays are numpy's."""
    manifest, vocabulary = bundle.manifest, encoder.vocabulary
    image, vision = manifest.image, manifest.vision
    return {
        "bundle": manifest.name,
        "bundle_digest": bundle.digest,
        "engine": encoder.engine_name,
        "pooled_dtype": "float32",
        "pooled_width": vision.embedding_width,
        "tokens_dtype": "float16",
        "tokens_width": vision.token_width,
        "tokens_count": vision.tokens,
        "grid_width": image.columns,
        "grid_height": image.rows,
        "input_width": image.width,
        "input_height": image.height,
        "resize": image.fit,
        "padding_color": np.array(image.pad, np.uint8),
        "mean": np.array(image.mean, np.float32),
        "standard_deviation": np.array(image.std, np.float32),
        "vocabulary": list(vocabulary.labels),
        "thresholds": vocabulary.thresholds.astype(np.float32),
        "vocabulary_version": int(vocabulary.version),
    }
