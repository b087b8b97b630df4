# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Domain objects survive the way through messages and their serialisation."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from vlm_perception.nodes.conversions import (
    MessageError,
    embedding_from,
    embedding_message,
    ns_to_stamp,
    reasoning_from,
    reasoning_message,
    scene_from,
    scene_message,
    stamp_to_ns,
    tensor_array,
    tensor_message,
)
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

STAMP = 1_700_000_000_123_456_789
TAGS = (Tag(3, "car", 0.5), Tag(0, "cone", 0.25))
REGIONS = (Region(3, "car", np.float32(0.5), np.int64(1), 2, 30, 40),)
ATTRIBUTES = (Attribute("weather", "rain", ("rain", "none"), (0.75, 0.25)),)

EMBEDDING = Embedding(
    stamp_ns=STAMP,
    frame_id="camera",
    sequence=7,
    run_id="ab",
    bundle_digest="0" * 64,
    image_size=(1280, 720),
    grid_size=(16, 9),
    pooled=np.array([0.6, 0.8], np.float32),
    tokens=np.arange(6, dtype=np.float16).reshape(3, 2),
    token_index=np.array([0, 5, FUSED_TOKEN], np.uint16),
    tags=TAGS,
    regions=REGIONS,
    vocabulary_version=2,
    stages={"vision": 0.25},
)
REASONING = Reasoning(
    stamp_ns=STAMP,
    frame_id="camera",
    run_id="cd",
    bundle_digest="0" * 64,
    keyframe_stamp_ns=0,
    is_keyframe=True,
    trigger="drift",
    drift=0.5,
    caption="grüne Ampel",
    attributes=ATTRIBUTES,
    instruction="",
    instruction_version=0,
    vocabulary_version=4,
    rung=0,
    stages={"prefill": 0.5},
)
SCENE = Scene(
    stamp_ns=0,
    frame_id="",
    run_id="ef",
    sequence=9,
    bundle_digest="",
    image_size=(1, 1),
    vocabulary_version=2,
    instruction_version=1,
    tags=TAGS,
    regions=REGIONS,
    attributes=ATTRIBUTES,
    hazards=("car",),
    conflicts=("one",),
    caption="",
    keyframe_stamp_ns=STAMP,
    embedding_age=-1.0,
    reasoning_age=0.5,
    keyframe_age=0.25,
    latency={"capture_to_scene": 0.125},
    rung=1,
    status=Status.DEGRADED,
    reason="why",
)


def wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def assert_same(one: Any, other: Any) -> None:
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        same = np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
        assert same, f"{field.name}: {a} became {b}"


def test_round_trips() -> None:
    assert_same(EMBEDDING, embedding_from(wire(embedding_message(EMBEDDING, 0.5))))
    assert_same(REASONING, reasoning_from(wire(reasoning_message(REASONING, 3, 0.5))))
    assert_same(SCENE, scene_from(wire(scene_message(SCENE))))


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, STAMP])
def test_stamps(stamp: int) -> None:
    assert stamp_to_ns(ns_to_stamp(stamp)) == stamp


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u2"])
def test_tensors(dtype: str) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    assert np.array_equal(tensor_array(wire(tensor_message(values)), "t"), values)
    strided = tensor_message(values)
    strided.shape, strided.strides = [4, 3], [1, 4]
    strided.byte_offset = 12 * values.itemsize
    assert np.array_equal(tensor_array(strided, "t"), values[1].T)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype_bits": 12},
        {"dtype_lanes": 2},
        {"dtype_code": 4},
        {"shape": [2, 4]},
        {"shape": [-2, 3]},
        {"shape": [2**40, 2**40]},
        {"strides": [1]},
        {"strides": [0, 2**40]},
        {"byte_offset": 1},
    ],
)
def test_lying_tensors_are_refused(changes: dict[str, Any]) -> None:
    message = tensor_message(np.zeros((2, 3), np.float32))
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(MessageError):
        tensor_array(message, "t")


def test_embeddings_that_contradict_themselves_are_refused() -> None:
    few = embedding_message(EMBEDDING, 0.5)
    few.token_index = few.token_index[:1]
    wrong = embedding_message(EMBEDDING, 0.5)
    wrong.pooled = tensor_message(EMBEDDING.tokens)
    nan = embedding_message(dataclasses.replace(EMBEDDING, pooled=np.full(2, np.nan, "f4")), 0.5)
    for message in (few, wrong, nan):
        with pytest.raises(MessageError):
            embedding_from(message)
