# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The way of an object through messages of both libraries, and what must come of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

from vlm_perception.messages.codec import Table
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.rosbags import ROSBAGS, read_cdr, serialized
from vlm_perception.messages.tables import DETAIL, EMBEDDING, LOCATIONS, REASONING, SCENE
from vlm_perception.types import Embedding, FrameDetail, LocatedObjects, Reasoning, Scene

TABLES: dict[type, tuple[Table[Any], dict[str, Any]]] = {
    # With fields of the message alone: how long it took, and which of those of its sender it is.
    Embedding: (EMBEDDING, {"processing_time": 0.5}),
    FrameDetail: (DETAIL, {}),
    Reasoning: (REASONING, {"sequence": 3, "processing_time": 0.5}),
    LocatedObjects: (LOCATIONS, {"sequence": 3}),
    Scene: (SCENE, {}),
}


def wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def assert_same(one: Any, other: Any) -> None:
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "tensors":
            assert list(map(content, a)) == list(map(content, b))
        elif isinstance(a, np.ndarray):
            assert content(a) == content(b), field.name
        else:
            assert a == b, field.name


def content(values: Any) -> Any:
    return values.dtype, values.shape, values.tobytes()


def assert_both_ways(value: Any) -> None:
    table, alone = TABLES[type(value)]
    live = table.write(value, ROS, **alone)
    assert_same(value, table.read(wire(live)))
    recorded = read_cdr(bytes(serialize_message(live)), table.type_name)
    assert_same(value, table.read(recorded))
    # The same bytes but for what a middleware leaves between fields.
    data = serialized(table.write(value, ROSBAGS, **alone))
    assert serialized(recorded) == data
    assert_same(value, table.read(deserialize_message(data, type(live))))
