# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Camera images for tests, built without the code under test."""

from __future__ import annotations

from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth RGB image with all colours in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def stamped(message: Any, stamp_ns: int, frame_id: str = "camera") -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = frame_id
    return message


def image(
    pixels: NDArray[Any], encoding: str, *, padding: int = 0, big_endian: bool = False
) -> Any:
    """An Image of this array, its rows followed by so many bytes of padding."""
    height, width = pixels.shape[:2]
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.frombuffer(np.ascontiguousarray(pixels).tobytes(), np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    data = array("B")
    data.frombytes(padded.tobytes())
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=padded.shape[1],
        data=data,
    )


def compressed(pixels: NDArray[np.uint8], suffix: str = ".jpg") -> Any:
    """A CompressedImage of an RGB or grey array."""
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    _, file = cv2.imencode(suffix, bgr)
    return CompressedImage(format=suffix[1:], data=array("B", bytes(file)))


def to_yuv(rgb: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Brightness and both colours of each pixel, by BT.601 in the studio range."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    return [
        16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256,
        128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256,
        128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256,
    ]


def to_yuv422(rgb: NDArray[np.uint8], order: str) -> NDArray[np.uint8]:
    """Two bytes a pixel, uyvy or yuyv."""
    y, u, v = to_yuv(rgb)
    chroma = np.empty_like(y)
    chroma[:, 0::2] = (u[:, 0::2] + u[:, 1::2]) / 2
    chroma[:, 1::2] = (v[:, 0::2] + v[:, 1::2]) / 2
    pair = (chroma, y) if order == "uyvy" else (y, chroma)
    return np.stack(pair, axis=-1).round().clip(0, 255).astype(np.uint8)


def to_bayer(rgb: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    """One byte a pixel: what a sensor with this 2x2 pattern (as rggb) sees."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return mosaic


def to_planes(rgb: NDArray[np.uint8], name: str, padding: int = 0) -> Any:
    """An Image in nv12, nv21 or nv24: brightness, then a plane of pairs of colours."""
    y, u, v = to_yuv(rgb)
    if name != "nv24":
        u, v = ((c[::2, ::2] + c[1::2, ::2] + c[::2, 1::2] + c[1::2, 1::2]) / 4 for c in (u, v))
    pairs = np.stack((v, u) if name == "nv21" else (u, v), axis=-1)
    wide = padding * (2 if name == "nv24" else 1)
    planes = [
        np.pad(plane.round().clip(0, 255).astype(np.uint8), ((0, 0), (0, fill)))
        for plane, fill in ((y, padding), (pairs.reshape(len(pairs), -1), wide))
    ]
    data = array("B", b"".join(plane.tobytes() for plane in planes))
    height, width = rgb.shape[:2]
    return Image(height=height, width=width, encoding=name, step=width + padding, data=data)
