# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The latched message that tells readers of the embedding topic what its numbers mean."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from vlm_perception.bundle import ModelBundle
from vlm_perception.msg import EmbeddingInfo
from vlm_perception.perception.encoder import VisionEncoder


def embedding_info(bundle: ModelBundle, encoder: VisionEncoder, run_id: str, stamp: Any) -> Any:
    """Describe the embeddings of this run; the message's stamp is the time of the change."""
    manifest, vocabulary = bundle.manifest, encoder.vocabulary
    image, vision = manifest.image, manifest.vision
    message = EmbeddingInfo(
        run_id=run_id,
        bundle=manifest.name,
        bundle_digest=bundle.digest,
        engine=encoder.engine_name,
        pooled_dtype="float32",
        pooled_width=vision.embedding_width,
        tokens_dtype="float16",
        tokens_width=vision.token_width,
        tokens_count=vision.tokens,
        grid_width=image.columns,
        grid_height=image.rows,
        input_width=image.width,
        input_height=image.height,
        resize=image.fit,
        padding_color=np.array(image.pad, np.uint8),
        mean=np.array(image.mean, np.float32),
        standard_deviation=np.array(image.std, np.float32),
        vocabulary=list(vocabulary.labels),
        thresholds=array("f", vocabulary.thresholds.astype(np.float32).tobytes()),
        vocabulary_version=int(vocabulary.version),
    )
    message.header.stamp = stamp
    return message
