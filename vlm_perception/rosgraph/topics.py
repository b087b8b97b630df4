# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The topics of the graph that are watched and recorded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A topic's name, type and quality of service."""

    name: str
    type_name: str
    """As in bags: package/msg/Name."""
    reliable: bool = True
    latched: bool = False
    depth: int = 10


IMAGE = Topic("image/compressed", "sensor_msgs/msg/CompressedImage", reliable=False)
EMBEDDING = Topic("embedding", "vlm_perception/msg/VisionEmbedding", reliable=False)
EMBEDDING_INFO = Topic("embedding_info", "vlm_perception/msg/EmbeddingInfo", latched=True, depth=1)
DETAIL = Topic("embedding/detail", "vlm_perception/msg/FrameDetail", depth=2)
REASONING = Topic("reasoning", "vlm_perception/msg/SceneReasoning")
LOCATIONS = Topic("locations", "vlm_perception/msg/LocatedObjects")
SCENE = Topic("scene", "vlm_perception/msg/SemanticScene")
MARKERS = Topic("scene/markers", "visualization_msgs/msg/MarkerArray")
DIAGNOSTICS = Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", depth=50)

RECORDED = (
    IMAGE,
    EMBEDDING,
    EMBEDDING_INFO,
    DETAIL,
    REASONING,
    LOCATIONS,
    SCENE,
    MARKERS,
    DIAGNOSTICS,
)
"""Not `scene/overlay`: raw images of 83 MB a second, which overlay.mp4 shows for less."""
MEASURED = (EMBEDDING, EMBEDDING_INFO, DETAIL, REASONING, SCENE, DIAGNOSTICS)
