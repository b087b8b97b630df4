# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded images of every kind, as messages of sensor_msgs in ROS 2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlm_perception.messages.codec import header, stamp_ns
from vlm_perception.messages.definitions import definition_types
from vlm_perception.messages.rosbags import (
    ROSBAGS,
    message_types,
    serialized,
    unreadable,
)
from vlm_perception.replay.recordings.protobuf import protobuf_fields
from vlm_perception.replay.storage.types import CDR, JSON, PROTOBUF, ROS1, Topic

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = {
    IMAGE: IMAGE,
    COMPRESSED_IMAGE: COMPRESSED_IMAGE,
    "foxglove_msgs/msg/RawImage": IMAGE,
    "foxglove_msgs/msg/CompressedImage": COMPRESSED_IMAGE,
    "foxglove.RawImage": IMAGE,
    "foxglove.CompressedImage": COMPRESSED_IMAGE,
}
"""Types that hold images, each with that of sensor_msgs which they are brought to."""
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
VIDEO_TYPES = frozenset(
    {
        FFMPEG_PACKET,
        "foxglove_msgs/msg/CompressedVideo",
        "foxglove.CompressedVideo",
        "theora_image_transport/msg/Packet",
    }
)
"""Types whose messages are packets of a video, most of which are no image without others."""
PROTOBUF_FIELDS = {
    "foxglove.RawImage": ("timestamp", "width", "height", "encoding", "step", "data", "frame_id"),
    "foxglove.CompressedImage": ("timestamp", "data", "format", "frame_id"),
    "foxglove.CompressedVideo": ("timestamp", "frame_id", "data", "format"),
}
"""Names of the fields in the order of their numbers, from 1."""
DEFINITIONS = {
    "foxglove_msgs/msg/RawImage": "builtin_interfaces/Time timestamp\nstring frame_id\n"
    "uint32 width\nuint32 height\nstring encoding\nuint32 step\nuint8[] data",
    "foxglove_msgs/msg/CompressedImage": "builtin_interfaces/Time timestamp\nstring frame_id\n"
    "uint8[] data\nstring format",
    "foxglove_msgs/msg/CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\n"
    "uint8[] data\nstring format",
    FFMPEG_PACKET: "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\n"
    "uint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data",
}
"""For recordings that hold no definitions."""


SERIALIZATIONS = (CDR, ROS1, PROTOBUF, JSON)
"""Those that are read."""


def image_type(topic: Topic) -> str:
    """The type of sensor_msgs that a topic's images are brought to; empty where it holds none."""
    return IMAGE_TYPES.get(topic.type_name, "")


def read_image(data: bytes, topic: Topic) -> Any:
    """A recorded image as a message of sensor_msgs.

    Args:
        data: the serialized message.
        topic: one with an `image_type` and one of the SERIALIZATIONS.

    Raises:
        MessageError: the message is damaged.
    """
    kind = image_type(topic)
    read = read_message(data, topic)
    if topic.encoding == CDR and topic.type_name == kind:
        return read
    try:
        return _of_sensor_msgs(read, kind)
    # Fields may be missing, or of any type.
    except Exception as error:
        raise unreadable(topic.type_name, error) from error


def serialized_image(image: Any) -> bytes:
    """A message of sensor_msgs as a bag of ROS 2 holds it.

    Raises:
        MessageError: a field holds what ROS 2 has no place for, as a stamp after 2038.
    """
    try:
        return serialized(image)
    # As when it is read.
    except Exception as error:
        raise unreadable(str(image.__msgtype__), error) from error


def read_message(data: bytes, topic: Topic) -> Any:
    """A recorded image or packet with the fields that it was recorded with.

    Raises:
        MessageError: as for `read_image`.
    """
    try:
        if topic.encoding == PROTOBUF:
            return _of_protobuf(data, PROTOBUF_FIELDS[topic.type_name])
        if topic.encoding == JSON:
            return _of_json(data)
        if topic.encoding == ROS1:
            return _types(topic).deserialize_ros1(data, topic.type_name)
        return _types(topic).deserialize_cdr(data, topic.type_name)
    # For a message that does not match its type, readers ROSBAGS nearly anything.
    except Exception as error:
        raise unreadable(topic.type_name, error) from error


def compressed_image(time_ns: int, frame_id: str, file: bytes) -> Any:
    """A sensor_msgs/CompressedImage of a JPEG file."""
    data = np.frombuffer(file, dtype=np.uint8)
    head = header(time_ns, frame_id, ROSBAGS)
    return ROSBAGS[COMPRESSED_IMAGE](header=head, format="jpeg", data=data)


def _types(topic: Topic) -> Typestore:
    """The types to read a topic with: its own definition where it is none of ROS's own."""
    if topic.type_name in (IMAGE, COMPRESSED_IMAGE):
        return _ros1_types() if topic.encoding == ROS1 else message_types()
    return _types_of(topic.type_name, topic.encoding, topic.definition)


@cache
def _ros1_types() -> Typestore:
    return get_typestore(Stores.ROS1_NOETIC)


@cache
def _types_of(type_name: str, encoding: str, definition: str) -> Typestore:
    types = get_typestore(Stores.ROS1_NOETIC if encoding == ROS1 else Stores.ROS2_JAZZY)
    if definition:
        own = definition_types(type_name, definition)
    else:
        own = get_types_from_msg(DEFINITIONS[type_name], type_name)
    types.register({name: fields for name, fields in own.items() if name not in types.fielddefs})
    return types


def _of_protobuf(data: bytes, names: tuple[str, ...]) -> Any:
    """The message; what a sender leaves out is 0 or empty."""
    fields = protobuf_fields(data)
    values: dict[str, Any] = {
        name: fields.get(number, 0 if name in ("width", "height", "step") else b"")
        for number, name in enumerate(names, 1)
    }
    moment = protobuf_fields(values["timestamp"])
    values["timestamp"] = SimpleNamespace(sec=moment.get(1, 0), nanosec=moment.get(2, 0))
    for name in ("frame_id", "encoding", "format"):
        if name in values:
            values[name] = values[name].decode()
    return SimpleNamespace(**values)


def _of_json(data: bytes) -> Any:
    values: Mapping[str, Any] = json.loads(data)
    moment = values["timestamp"]
    time = SimpleNamespace(sec=moment["sec"], nanosec=moment["nsec"])
    file = base64.b64decode(values["data"], validate=True)
    return SimpleNamespace(**{**values, "timestamp": time, "data": file})


def _of_sensor_msgs(read: Any, kind: str) -> Any:
    """An image of ROS 1 or of Foxglove as one of ROS 2."""
    if hasattr(read, "header"):
        head = header(stamp_ns(read.header.stamp), str(read.header.frame_id), ROSBAGS)
        fields = {name: value for name, value in vars(read).items() if name != "header"}
    else:
        head = header(stamp_ns(read.timestamp), str(read.frame_id), ROSBAGS)
        fields = {"data": np.frombuffer(read.data, dtype=np.uint8)}
        if kind == COMPRESSED_IMAGE:
            fields["format"] = str(read.format)
        else:
            sizes = ("width", "height", "step")
            fields |= {name: int(getattr(read, name)) for name in sizes}
            fields |= {"encoding": str(read.encoding), "is_bigendian": 0}
    return ROSBAGS[kind](header=head, **fields)
