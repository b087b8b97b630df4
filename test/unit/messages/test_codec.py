# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Objects become the same messages in rclpy and in rosbags, and lying messages are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from support.both_ways import TABLES, assert_both_ways

from vlm_perception.messages.codec import Library, MessageError, stamp_ns, time_message
from vlm_perception.messages.markers import markers_message
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.rosbags import ROSBAGS, message_types, read_cdr, serialized
from vlm_perception.messages.tables import DETAIL, EMBEDDING, EMBEDDING_INFO, SCENE
from vlm_perception.messages.tensor import tensor_array, tensor_message
from vlm_perception.nodes.io.shown.visualization_output import markers
from vlm_perception.perception.rendering.markers import DEPTH
from vlm_perception.types import (
    FUSED_TOKEN,
    Attribute,
    Embedding,
    Followed,
    FrameDetail,
    LocatedBox,
    LocatedObject,
    LocatedObjects,
    Reasoning,
    Region,
    Scene,
    Status,
    Tag,
)

LATEST_STAMP = 2**31 * 10**9 - 1
ANSWER = Attribute("weather", "rain", ("rain",), (1.0,))
SEEN = Embedding(
    stamp_ns=1_700_000_000_123_456_789,
    frame_id="camera",
    sequence=7,
    run_id="ab",
    bundle_digest="0" * 64,
    image_size=(1280, 720),
    grid_size=(16, 9),
    pooled=np.array([0.6, 0.8], np.float32),
    tokens=np.arange(6, dtype=np.float16).reshape(3, 2),
    token_index=np.array([0, 5, FUSED_TOKEN], np.uint16),
    tags=(Tag(3, "grüne Ampel", 0.5),),
    # As the encoder makes them.
    regions=(Region(3, "car", np.float32(0.5), np.int64(1), 2, 30, 40),),
    vocabulary_version=2,
    stages={"vision": 0.25},
)
READ = FrameDetail(
    stamp_ns=0,
    frame_id="camera",
    run_id="ab",
    sequence=7,
    bundle_digest="0" * 64,
    names=("tokens", "token_index", "view"),
    tensors=(SEEN.tokens, SEEN.token_index, np.zeros((2, 3, 3), np.uint8)),
)
REASONED = Reasoning(
    stamp_ns=1_700_000_000_123_456_789,
    frame_id="camera",
    run_id="cd",
    bundle_digest="0" * 64,
    keyframe_stamp_ns=1_700_000_000_123_456_784,
    is_keyframe=True,
    trigger="drift",
    drift=0.5,
    caption="grüne Ampel",
    attributes=(ANSWER,),
    instruction="be brief",
    instruction_version=2,
    vocabulary_version=4,
    rung=1,
    stages={"prefill": 0.5},
)
FUSED = Scene(
    stamp_ns=0,
    frame_id="camera",
    run_id="ef",
    sequence=9,
    bundle_digest="",
    image_size=(1280, 720),
    vocabulary_version=2,
    instruction_version=1,
    tags=SEEN.tags,
    regions=SEEN.regions,
    attributes=(ANSWER,),
    hazards=("car",),
    conflicts=("one says so, the other not",),
    caption="a wet road",
    keyframe_stamp_ns=5,
    embedding_age=-1.0,
    reasoning_age=0.5,
    keyframe_age=0.25,
    latency={"capture_to_scene": 0.125},
    rung=1,
    status=Status.DEGRADED,
    reason="why",
)
LOCATED = LocatedObjects(
    stamp_ns=4,
    frame_id="camera",
    run_id="ef",
    bundle_digest="",
    image_size=(1280, 720),
    objects=(LocatedObject(1, "the car", LocatedBox(1.0, 2.0, 3.5, 4.0, 0.5), Followed.MISSED),),
)
OBJECTS = [SEEN, READ, REASONED, LOCATED, FUSED]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_both_libraries_read_what_the_other_writes(value: Any) -> None:
    assert_both_ways(value)


def test_every_field_is_written() -> None:
    written: dict[str, set[str]] = {}

    def record(type_name: str) -> Any:
        return lambda **fields: written.setdefault(type_name, set()).update(fields)

    for value in OBJECTS:
        table, alone = TABLES[type(value)]
        table.write(value, Library(record, list), **alone)
    defined = message_types().fielddefs
    own = {name for name in defined if name.startswith("vlm_perception/")}
    # They are no objects: the fields of one are told by perception/vision/embedding_info.py.
    assert own - set(written) == {EMBEDDING_INFO, "vlm_perception/msg/FrameRequest"}
    for type_name, fields in written.items():
        assert fields == {name for name, _ in defined[type_name][1]}, type_name


def test_markers_are_those_of_the_nodes() -> None:
    ours = markers_message(FUSED)
    live = read_cdr(bytes(serialize_message(markers(FUSED, None, DEPTH))), ours.__msgtype__)
    assert serialized(live) == serialized(ours)


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, LATEST_STAMP])
def test_stamps(stamp: int) -> None:
    assert stamp_ns(time_message(stamp, ROS)) == stamp


@pytest.mark.parametrize("library", [ROS, ROSBAGS])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u1", "u2", ">i4"])
def test_tensors(dtype: str, library: Any) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    for each in (values, values[:, ::2], values[:0], values[0, 0, 0]):
        assert np.array_equal(tensor_array(tensor_message(each, library), "t"), each)
    strided = tensor_message(values, library)
    strided.shape, strided.strides = np.array([4, 3]), np.array([1, 4])
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
        {"shape": [-2, -3]},
        {"shape": [2**40, 2**40]},
        {"shape": [0, 2**62]},
        {"shape": [2**40], "strides": [0]},
        {"strides": [1]},
        {"strides": [3, -1], "byte_offset": 8},
        {"strides": [0, 2**40]},
        {"strides": [2**62, 1]},
        {"byte_offset": 1},
        {"byte_offset": 2**64 - 1},
    ],
)
def test_lying_tensors_are_refused(changes: dict[str, Any]) -> None:
    message = tensor_message(np.zeros((2, 3), np.float32), ROS)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(MessageError, match=r"^t "):
        tensor_array(message, "t")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (replace(SEEN, tags=SEEN.tags * 600), "600 tags; at most"),
        (replace(SEEN, regions=SEEN.regions * 9000), "9000 regions"),
        (replace(REASONED, attributes=REASONED.attributes * 200), "200 attributes"),
        (replace(REASONED, caption="word " * 300_000), "in its caption"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_that_hold_more_than_any_node_says_are_refused(value: Any, sentence: str) -> None:
    table, alone = TABLES[type(value)]
    with pytest.raises(MessageError, match=sentence):
        table.read(table.write(value, ROS, **alone))


def test_an_array_holds_the_memory_of_its_message() -> None:
    message = tensor_message(np.arange(4, dtype=np.int32), ROS)
    values = tensor_array(message, "t")
    assert np.shares_memory(values, np.frombuffer(message.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    with pytest.raises(BufferError):
        message.data.append(0)


def test_messages_that_contradict_themselves_are_refused() -> None:
    few, wrong = (EMBEDDING.write(SEEN, ROS, processing_time=0.5) for _ in range(2))
    few.token_index = few.token_index[:1]
    wrong.pooled = wrong.tokens
    nan = replace(SEEN, pooled=np.full(2, np.nan, np.float32))
    empty = replace(SEEN, image_size=(0, 720))
    unfit = [EMBEDDING.write(each, ROS, processing_time=0.5) for each in (nan, empty)]
    for message, says in zip(
        (few, wrong, *unfit),
        ("3 tokens and 1 token", "pooled is float16 of shape", "NaN", "no size"),
        strict=True,
    ):
        with pytest.raises(MessageError, match=says):
            EMBEDDING.read(message)
    detail = DETAIL.write(READ, ROS)
    detail.names[1] = "tokens"
    with pytest.raises(MessageError, match="3 tensors under the names tokens, tokens, view"):
        DETAIL.read(detail)
    scene = SCENE.write(FUSED, ROS)
    scene.status = 77
    with pytest.raises(MessageError, match="not one of STATUS_"):
        SCENE.read(scene)
    scene.attributes[0].choices.append("one more")
    with pytest.raises(MessageError, match="probabilities"):
        SCENE.read(scene)
