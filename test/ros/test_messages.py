# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The messages on the wire: what ROS writes, a reader without ROS reads the same."""

import array

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support.places import ROOT

from vlm_perception.msg import (
    EmbeddingInfo,
    LocatedObject,
    Region,
    SemanticScene,
    Tag,
    Tensor,
    VisionEmbedding,
)
from vlm_perception.types import FUSED_TOKEN, Followed, Status

INTERFACES = sorted(
    path for kind in ("msg", "srv", "action") for path in (ROOT / kind).glob(f"*.{kind}")
)


def tensor(values):
    return Tensor(
        dtype_code=Tensor.DLPACK_FLOAT,
        dtype_bits=8 * values.itemsize,
        dtype_lanes=1,
        shape=array.array("q", values.shape),
        data=array.array("B", values.tobytes()),
    )


@pytest.fixture
def embedding():
    generator = np.random.default_rng(0)
    message = VisionEmbedding(sequence=2**40, bundle_digest="ab" * 32, grid_width=16)
    message.header.stamp.sec = 7
    message.header.frame_id = "camera_optical_frame"
    message.pooled = tensor(generator.random(192, dtype=np.float32))
    message.tokens = tensor(generator.random((3, 192)).astype(np.float16))
    message.token_index = array.array("H", [0, 143, FUSED_TOKEN])
    message.tags = [Tag(label_index=3, label="Lastwagen, groß", score=0.5)]
    message.regions = [Region(label="car", score=1.0)]
    message.regions[0].roi.width = 1280
    return message


def test_embedding_survives_the_wire(embedding):
    assert deserialize_message(serialize_message(embedding), VisionEmbedding) == embedding


def test_a_reader_without_ros_reads_the_same(embedding):
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for path in (ROOT / "msg").glob("*.msg"):
        types |= get_types_from_msg(path.read_text(), f"vlm_perception/msg/{path.stem}")
    store.register(types)

    read = store.deserialize_cdr(serialize_message(embedding), "vlm_perception/msg/VisionEmbedding")

    assert (read.sequence, read.header.stamp.sec) == (2**40, 7)
    assert read.tokens.shape.tolist() == [3, 192]
    assert read.tokens.data.tobytes() == bytes(embedding.tokens.data)
    assert read.token_index.tolist() == [0, 143, FUSED_TOKEN]
    assert (read.tags[0].label, read.tags[0].score) == ("Lastwagen, groß", 0.5)
    assert read.regions[0].roi.width == 1280


def test_fixed_arrays_take_plain_lists():
    info = EmbeddingInfo(mean=[0.5, 0.5, 0.5], padding_color=[1, 2, 3])
    copy = deserialize_message(serialize_message(info), EmbeddingInfo)
    assert (list(copy.mean), list(copy.padding_color)) == ([0.5] * 3, [1, 2, 3])


def test_constants_are_those_of_the_domain():
    assert {s.name: getattr(SemanticScene, f"STATUS_{s.name}") for s in Status} == dict(
        Status.__members__
    )
    assert {s.name: getattr(LocatedObject, f"STATE_{s.name}") for s in Followed} == dict(
        Followed.__members__
    )
    assert VisionEmbedding.FUSED_TOKEN == FUSED_TOKEN


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_field_has_a_comment(path):
    previous = ""
    for line in path.read_text().splitlines():
        is_field = line and not line.startswith("#") and line != "---"
        if is_field and "=" not in line:
            assert previous.startswith("# "), f"{path.name}: nothing is said of '{line}'"
        previous = line
