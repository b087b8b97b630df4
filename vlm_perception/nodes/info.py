# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The latched message that tells readers of the embedding topic what its numbers mean."""

from __future__ import annotations

from array import array
from typing import Any

from vlm_perception.bundle import ModelBundle
from vlm_perception.msg import EmbeddingInfo
from vlm_perception.perception.embedding_info import embedding_info_fields
from vlm_perception.perception.encoder import VisionEncoder


def embedding_info(bundle: ModelBundle, encoder: VisionEncoder, run_id: str, stamp: Any) -> Any:
    """Describe the embeddings of this run; the message's stamp is the time of the change."""
    fields = embedding_info_fields(bundle, encoder)
    fields["thresholds"] = array("f", fields["thresholds"].tobytes())
    message = EmbeddingInfo(run_id=run_id, **fields)
    message.header.stamp = stamp
    return message
