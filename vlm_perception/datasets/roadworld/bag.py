# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A drive through the road world as a ROS 2 bag: for tests of replay, short or very long."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vlm_perception.datasets.roadworld.clip import JPEG_QUALITY, frame

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
        ValueError: there is something at `folder` already.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; remove it or choose another folder")
    width, height = size
    count = round(seconds * fps)
    with Progress(transient=True) as progress:
        bar = progress.add_task("rendering", total=count)
        files = []
        for index in range(count):
            image = frame(index, width=width, height=height, fps=fps, seconds=seconds, seed=seed)
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            files.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])
            progress.advance(bar)
    types = get_typestore(Stores.ROS2_HUMBLE)
    make = types.types
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, TYPE, typestore=types)
        for index in range(count * repeat):
            time_ns = START_NS + round(index * 1e9 / fps)
            stamp = make["builtin_interfaces/msg/Time"](*divmod(time_ns, 1_000_000_000))
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID)
            file = np.asarray(files[index % count], np.uint8).reshape(-1)
            message = make[TYPE](header=header, format="jpeg", data=file)
            writer.write(connection, time_ns, types.serialize_cdr(message, TYPE))
    return count * repeat
