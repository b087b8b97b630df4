# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Videos with uneven times, with damage, and cut off, made from what OpenCV writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FRAMES, RATE = 160, 90, 30, 30
TICKS = 512
"""What an image of RATE lasts in the time scale that FFmpeg gives an MP4 file."""


def make_video(path: Path, codec: str = "mp4v") -> Path:
    """Each image is brighter than the one before, and has some texture to decode."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE, (WIDTH, HEIGHT))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3), np.uint8)
    for index in range(FRAMES):
        writer.write(noise + np.uint8(6 * index))
    writer.release()
    return path


def set_times(path: Path, ticks: Sequence[int]) -> Path:
    """Let each image of an MP4 file last so many ticks; in all they must last as long as before."""
    assert sum(ticks) == FRAMES * TICKS
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    entries = b"".join(struct.pack(">II", 1, each) for each in ticks)
    table = b"stts" + struct.pack(">II", 0, len(ticks)) + entries
    data[at : at + size] = struct.pack(">I", len(table) + 4) + table
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        begin = data.index(box) - 4
        (inner,) = struct.unpack_from(">I", data, begin)
        struct.pack_into(">I", data, begin, inner + len(table) + 4 - size)
    path.write_bytes(data)
    return path


def damage(path: Path, begin: float, end: float) -> Path:
    """Overwrite a part of a file, given in shares of its length, with noise."""
    data = bytearray(path.read_bytes())
    first, last = int(begin * len(data)), int(end * len(data))
    data[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Leave only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path
