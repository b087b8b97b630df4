# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a replay writes into its bag is what the nodes publish."""

import numpy as np
from rclpy.serialization import serialize_message

from vlm_perception.nodes import conversions
from vlm_perception.nodes.visualization import markers
from vlm_perception.perception.markers import DEPTH
from vlm_perception.replay import building
from vlm_perception.replay.marker_messages import markers_message
from vlm_perception.replay.messages import message_types
from vlm_perception.types import (
    FUSED_TOKEN,
    Attribute,
    Embedding,
    Reasoning,
    Region,
    Scene,
    Status,
    Tag,
)

NUMBERS = np.random.default_rng(0)
TAGS = (Tag(2, "car", 0.75), Tag(0, "pedestrian", 0.5))
REGIONS = (Region(2, "car", 0.625, 3, 4, 50, 60),)
ATTRIBUTES = (Attribute("weather", "rain", ("clear", "rain"), (0.25, 0.75)),)
STAMP_NS = 1_700_000_000_123_456_789


def same(ours, theirs):
    """Compare the bytes; what a middleware leaves between fields for alignment is arbitrary."""
    types, kind = message_types(), ours.__msgtype__
    read = types.deserialize_cdr(bytes(serialize_message(theirs)), kind)
    return building.serialized(ours) == bytes(types.serialize_cdr(read, kind))


def test_an_embedding():
    embedding = Embedding(
        stamp_ns=STAMP_NS,
        frame_id="camera",
        sequence=7,
        run_id="run",
        bundle_digest="d" * 64,
        image_size=(640, 480),
        grid_size=(16, 9),
        pooled=NUMBERS.normal(size=8).astype(np.float32),
        tokens=NUMBERS.normal(size=(5, 4)).astype(np.float16),
        token_index=np.array([1, 2, 9, 100, FUSED_TOKEN], np.uint16),
        tags=TAGS,
        regions=REGIONS,
        vocabulary_version=3,
        stages={"preprocess": 0.001, "vision": 0.005},
    )
    ours = building.embedding_message(embedding, 0.0125)
    assert same(ours, conversions.embedding_message(embedding, 0.0125))


def test_a_reasoning():
    reasoning = Reasoning(
        stamp_ns=STAMP_NS,
        frame_id="camera",
        run_id="run",
        bundle_digest="d" * 64,
        keyframe_stamp_ns=STAMP_NS - 5,
        is_keyframe=True,
        trigger="drift",
        drift=0.125,
        caption="a wet road",
        attributes=ATTRIBUTES,
        instruction="be brief",
        instruction_version=2,
        vocabulary_version=3,
        rung=1,
        stages={"prefill": 0.003},
    )
    ours = building.reasoning_message(reasoning, 9, 0.02)
    assert same(ours, conversions.reasoning_message(reasoning, 9, 0.02))


def test_a_scene():
    scene = Scene(
        stamp_ns=STAMP_NS,
        frame_id="camera",
        run_id="run",
        sequence=11,
        bundle_digest="d" * 64,
        image_size=(640, 480),
        vocabulary_version=3,
        instruction_version=0,
        tags=TAGS,
        regions=REGIONS,
        attributes=ATTRIBUTES,
        hazards=("pedestrian",),
        conflicts=("one says so, the other not",),
        caption="a wet road",
        keyframe_stamp_ns=STAMP_NS - 5,
        embedding_age=0.01,
        reasoning_age=-1.0,
        keyframe_age=0.5,
        latency={"capture_to_scene": 0.0125},
        rung=1,
        status=Status.DEGRADED,
        reason="the language node saves work",
    )
    assert same(building.scene_message(scene), conversions.scene_message(scene))
    assert same(markers_message(scene), markers(scene, None, DEPTH))
