# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings of all kinds, written with rosbags."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
CAMERA = "/camera/image_raw/compressed"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TYPES = get_typestore(Stores.ROS2_HUMBLE)
ROS1_TYPES = get_typestore(Stores.ROS1_NOETIC)


def jpeg(index: int, width: int = 64, height: int = 36) -> bytes:
    rng = np.random.default_rng(index)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return bytes(cv2.imencode(".jpg", picture)[1])


def image(stamp_ns: int, file: bytes, types=TYPES):
    """A CompressedImage of these types."""
    make = types.types
    stamp = make["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    fields = {"stamp": stamp, "frame_id": "camera"}
    if types is ROS1_TYPES:
        fields["seq"] = 0
    header = make["std_msgs/msg/Header"](**fields)
    return make[COMPRESSED](header=header, format="jpeg", data=np.frombuffer(file, np.uint8))


def write(
    folder: Path,
    files: list[bytes],
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    stamps: list[int] | None = None,
    first: int = 0,
    topics: tuple[str, ...] = (CAMERA,),
) -> Path:
    """A bag of CompressedImage, 10 Hz."""
    writer = Writer(folder, version=8, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        cameras = [writer.add_connection(name, COMPRESSED, typestore=TYPES) for name in topics]
        for index, file in enumerate(files, first):
            time_ns = START_NS + index * STEP_NS
            stamp_ns = stamps[index] if stamps else time_ns
            data = TYPES.serialize_cdr(image(stamp_ns, file), COMPRESSED)
            for camera in cameras:
                writer.write(camera, time_ns, data)
    return folder


def write_ros1(
    file: Path, files: list[bytes], *, compression: Writer1.CompressionFormat | None = None
) -> Path:
    writer = Writer1(file)
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        camera = writer.add_connection(CAMERA, COMPRESSED, typestore=ROS1_TYPES)
        for index, each in enumerate(files):
            time_ns = START_NS + index * STEP_NS
            message = image(time_ns, each, ROS1_TYPES)
            writer.write(camera, time_ns, ROS1_TYPES.serialize_ros1(message, COMPRESSED))
    return file


def write_with_stranger(folder: Path, files: list[bytes]) -> Path:
    """A camera beside a topic whose type nobody knows, with a definition that is cut off."""
    own = get_typestore(Stores.ROS2_HUMBLE)
    own.register(get_types_from_msg("uint8 level", "maker_msgs/msg/Mood"))
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection(CAMERA, COMPRESSED, typestore=TYPES)
        mood = writer.add_connection("/mood", "maker_msgs/msg/Mood", typestore=own)
        strange = writer.add_connection(
            "/strange", "maker_msgs/msg/Odd", msgdef="maker_msgs/Missing[", rihs01="RIHS01_0"
        )
        for index, file in enumerate(files):
            time_ns = START_NS + index * STEP_NS
            writer.write(camera, time_ns, TYPES.serialize_cdr(image(time_ns, file), COMPRESSED))
            writer.write(mood, time_ns, b"\x00\x01\x00\x00\x07")
            writer.write(strange, time_ns, b"\x00\x01\x00\x00\x07")
    return folder


def raw(stamp_ns: int, encoding: str, data: bytes, step: int = 0):
    """An Image of 64x36 pixels; a step of 0 is that of a packed one."""
    make = TYPES.types
    stamp = make["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    return make["sensor_msgs/msg/Image"](
        header=make["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"),
        height=36,
        width=64,
        encoding=encoding,
        is_bigendian=0,
        step=step or len(data) // 36,
        data=np.frombuffer(data, np.uint8),
    )


def write_messages(folder: Path, topics: dict[str, list]) -> Path:
    """A bag of messages of ROS 2, 10 Hz."""
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, messages in topics.items():
            kind = messages[0].__msgtype__
            topic = writer.add_connection(name, kind, typestore=TYPES)
            for index, message in enumerate(messages):
                data = TYPES.serialize_cdr(message, kind)
                writer.write(topic, START_NS + index * STEP_NS, data)
    return folder
