# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Image and CompressedImage messages to RGB pixels, with every claim of the message checked first.

The colours are converted by cv_bridge where it is installed and by rosbags-image elsewhere. Both
are given tightly packed rows of 8 bits in this machine's byte order: cv_bridge 3.4.0 reads padded
rows wrongly when the step is no multiple of the pixel size, and fails on big-endian images under
numpy 2; rosbags-image does not unpad.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vlm_perception.perception.image_errors import ImageError, check_size, truncated
from vlm_perception.perception.jpeg import START as JPEG_START
from vlm_perception.perception.jpeg import decode_jpeg

Pixels = NDArray[np.uint8]

OTHER_FILES = ("BMP", "TIFF", "WEBP")
"""What is read besides JPEG and PNG, as the image library names it."""

# ROS name: (name that both libraries know, channels, bits of a channel)
ENCODINGS: dict[str, tuple[str, int, int]] = {
    "rgb8": ("rgb8", 3, 8),
    "bgr8": ("bgr8", 3, 8),
    "rgba8": ("rgba8", 4, 8),
    "bgra8": ("bgra8", 4, 8),
    "mono8": ("mono8", 1, 8),
    "8UC1": ("mono8", 1, 8),
    "8UC3": ("bgr8", 3, 8),
    "8UC4": ("bgra8", 4, 8),
    "rgb16": ("rgb8", 3, 16),
    "bgr16": ("bgr8", 3, 16),
    "rgba16": ("rgba8", 4, 16),
    "bgra16": ("bgra8", 4, 16),
    "mono16": ("mono8", 1, 16),
    "yuv422": ("yuv422", 2, 8),
    "uyvy": ("yuv422", 2, 8),
    "yuv422_yuy2": ("yuv422_yuy2", 2, 8),
    "yuyv": ("yuv422_yuy2", 2, 8),
    "bayer_rggb8": ("bayer_rggb8", 1, 8),
    "bayer_bggr8": ("bayer_bggr8", 1, 8),
    "bayer_gbrg8": ("bayer_gbrg8", 1, 8),
    "bayer_grbg8": ("bayer_grbg8", 1, 8),
    "bayer_rggb16": ("bayer_rggb8", 1, 16),
    "bayer_bggr16": ("bayer_bggr8", 1, 16),
    "bayer_gbrg16": ("bayer_gbrg8", 1, 16),
    "bayer_grbg16": ("bayer_grbg8", 1, 16),
}


@dataclass(frozen=True)
class PackedImage:
    """A checked image as both libraries read it: it has the fields of sensor_msgs/Image."""

    encoding: str
    height: int
    width: int
    step: int
    data: Pixels
    is_bigendian: int = int(sys.byteorder != "little")


def to_rgb(message: Any) -> Pixels:
    """Convert a sensor_msgs Image or CompressedImage to RGB.

    Returns:
        uint8 [height, width, 3], C-contiguous; it may share memory with the message.

    Raises:
        ImageError: The message is empty, damaged, of unknown encoding, or contradicts itself.
    """
    if hasattr(message, "format"):
        return _decode(message)
    packed = pack(message)
    if packed.encoding == "rgb8":
        return packed.data.reshape(packed.height, packed.width, 3)
    try:
        return np.ascontiguousarray(_CONVERT(packed), dtype=np.uint8)
    except cv2.error as error:
        raise ImageError("bad_size", f"{message.encoding} cannot be converted: {error}") from error


def pack(message: Any) -> PackedImage:
    """Check an Image message and bring it to tight rows, 8 bits and this machine's byte order.

    Raises:
        ImageError: As for to_rgb.
    """
    known = ENCODINGS.get(message.encoding)
    if known is None:
        raise ImageError(
            "bad_encoding",
            f"its encoding {message.encoding!r} is not known; publish rgb8, bgr8, mono8, "
            "yuv422 or bayer (8 or 16 bit), or convert it with image_proc",
        )
    name, channels, bits = known
    height, width = int(message.height), int(message.width)
    check_size(width, height)
    _check_parity(name, width, height)
    row, step = width * channels * bits // 8, int(message.step)
    if step < row:
        raise ImageError(
            "bad_step",
            f"its step is {step} bytes, but {width} pixels of {message.encoding} take {row}; "
            "the driver must set step to the bytes of a row",
        )
    data = np.frombuffer(message.data, dtype=np.uint8)
    if data.size not in (step * height, step * (height - 1) + row):
        raise ImageError(
            "bad_data_length",
            f"its data has {data.size} bytes, but {height} rows of {step} bytes are "
            f"{step * height}; the driver must fill data and step alike",
        )
    if step != row:
        padded = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
        data = np.ascontiguousarray(padded).reshape(-1)
    if bits == 16:
        data = _to_8_bits(data.view(np.uint16), bool(message.is_bigendian))
    return PackedImage(name, height, width, width * channels, data)


def _check_parity(name: str, width: int, height: int) -> None:
    if name.startswith("yuv422") and width % 2:
        raise ImageError(
            "bad_size", f"its width {width} is odd, but in yuv422 two pixels share a colour"
        )
    if name.startswith("bayer") and (width < 3 or height < 3):
        raise ImageError(
            "bad_size", f"its size {width}x{height} is too small for bayer; send 3x3 or more"
        )


def _to_8_bits(data: NDArray[np.uint16], big_endian: bool) -> Pixels:
    if big_endian != (sys.byteorder == "big"):
        data = data.byteswap()
    scaled = cv2.convertScaleAbs(data.reshape(1, -1), alpha=255.0 / 65535.0)
    return np.asarray(scaled, dtype=np.uint8).reshape(-1)


def convert_with_rosbags(packed: PackedImage) -> Pixels:
    """Convert the colours with rosbags-image."""
    from rosbags.image import message_to_cvimage  # noqa: PLC0415 - either this or cv_bridge

    message: Any = packed
    return np.asarray(message_to_cvimage(message, "rgb8"), dtype=np.uint8)


def convert_with_cv_bridge(packed: PackedImage) -> Pixels:
    """Convert the colours with cv_bridge."""
    from cv_bridge import CvBridge  # noqa: PLC0415 - either this or rosbags-image

    return np.asarray(CvBridge().imgmsg_to_cv2(packed, "rgb8"), dtype=np.uint8)


def _choose() -> Callable[[PackedImage], Pixels]:
    try:
        import cv_bridge  # noqa: F401, PLC0415 - only to see whether it can be loaded
    except (ImportError, AttributeError):  # AttributeError: built for another numpy
        return convert_with_rosbags
    return convert_with_cv_bridge


_CONVERT = _choose()


def _decode(message: Any) -> Pixels:
    if "compressedDepth" in message.format:
        raise ImageError("bad_format", "it is a depth image; subscribe to a colour camera")
    file = bytes(message.data)
    if file.startswith(JPEG_START):
        return decode_jpeg(file).pixels
    _check_file(file)
    try:
        # Both libraries do just this for compressed images.
        decoded = cv2.imdecode(np.frombuffer(file, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise ImageError(
            "bad_format",
            f"its data (format {message.format!r}, {len(file)} bytes) is no image that OpenCV "
            "reads; send JPEG or PNG",
        )
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _check_file(file: bytes) -> None:
    """Refuse what OpenCV would decode to half an image without a word, or to a giant one."""
    if not file:
        raise ImageError("bad_data_length", "its data is empty; the driver sent no image")
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = int.from_bytes(file[16:20], "big"), int.from_bytes(file[20:24], "big")
        complete = b"IEND" in file[-64:]
    else:
        width, height = _size_of(file)
        complete = True
    if not complete:
        raise truncated(len(file))
    check_size(width, height)


def _size_of(file: bytes) -> tuple[int, int]:
    """Width and height that the header of a TIFF, WebP or the like tells."""
    try:
        with PIL.Image.open(io.BytesIO(file), formats=OTHER_FILES) as image:
            return image.size
    except PIL.Image.DecompressionBombError as error:
        raise ImageError("bad_size", str(error)) from error
    # A damaged header raises nearly anything.
    except Exception as error:
        raise ImageError(
            "bad_format", f"its data ({len(file)} bytes) are no image: send JPEG or PNG ({error})"
        ) from error
