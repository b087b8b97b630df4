# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A drive through the road world as a ROS 2 bag: for tests of replay, short or very long."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.files.clip import JPEG_QUALITY, frame
from vlm_perception.outputs.swap import made_beside, swap

TOPIC = "/camera/image_raw/compressed"
TYPE = "sensor_msgs/msg/CompressedImage"
FRAME_ID = "camera_optical_frame"
START_NS = 1_700_000_000_000_000_000


def write_bag(
    folder: Path, *, size: tuple[int, int], fps: int, seconds: float, seed: int, repeat: int = 1
) -> int:
    """Render a drive and write it as an mcap bag of CompressedImage.

    Args:
        folder: the bag's folder; it must not exist.
        size: width and height in pixels.
        fps: images a second.
        seconds: length of the drive.
        seed: the same seed gives the same drive.
        repeat: how often the drive follows on itself, with stamps that go on.

    Returns:
        The number of images.

    Raises:
        VlmPerceptionError: there is something at `folder` already.
    """
    if folder.exists():
        raise VlmPerceptionError(f"{folder} already exists; remove it or choose another folder")
    width, height = size
    count = round(seconds * fps)
    with Progress(transient=True) as progress:
        bar = progress.add_task("rendering", total=count)
        files: list[NDArray[np.uint8]] = []
        for index in range(count):
            image = frame(index, width=width, height=height, fps=fps, seconds=seconds, seed=seed)
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            files.append(np.asarray(file, np.uint8).reshape(-1))
            progress.advance(bar)
    with made_beside(folder, "roadworld bag") as scratch:
        _write(scratch / folder.name, files, fps, count * repeat)
        swap(scratch / folder.name, folder)
    return count * repeat


def _write(folder: Path, files: list[NDArray[np.uint8]], fps: int, count: int) -> None:
    """Write `count` images, cycling through the files."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    make = types.types
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, TYPE, typestore=types)
        for index in range(count):
            time_ns = START_NS + round(index * 1e9 / fps)
            stamp = make["builtin_interfaces/msg/Time"](*divmod(time_ns, 1_000_000_000))
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID)
            file = files[index % len(files)]
            message = make[TYPE](header=header, format="jpeg", data=file)
            writer.write(connection, time_ns, types.serialize_cdr(message, TYPE))
