# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""PNG files to pixels; each part has a checksum, so that no damage stays unseen."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.media.image_errors import (
    DamagedImageError,
    ImageError,
    check_size,
    truncated,
)

START = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 32_000_000
"""Most bytes of pixels in a file: more take too long to decode."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the kind of colour that the header names."""


@dataclass(frozen=True)
class DecodedPng:
    """A PNG's pixels, and whether it holds one channel only."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    """RGB [height, width, 3], 8 or 16 bits as in the file."""
    grey: bool


def decode_png(file: bytes) -> DecodedPng:
    """Decode a PNG file as is: an orientation in it is not applied.

    Raises:
        DamagedImageError: a part of it is missing or altered.
        ImageError: it would take too long.
    """
    kept, header = [START], b""
    for name, content, chunk in _chunks(file):
        header = header or content
        # The others change no pixel, and OpenCV's library writes to stderr of those it dislikes.
        if name[:1].isupper():
            kept.append(chunk)
    _check_header(header)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded: Any = cv2.imdecode(np.frombuffer(b"".join(kept), dtype=np.uint8), flags)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise _damaged("its pixels cannot be decompressed")
    pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return DecodedPng(np.asarray(pixels), grey=header[9] == 0)


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, content and bytes of each part, up to the last one."""
    position, name = len(START), b""
    while name != b"IEND":
        end = position + 12 + int.from_bytes(file[position : position + 4], "big")
        if end > len(file):
            raise truncated(len(file))
        name, content = file[position + 4 : position + 8], file[position + 8 : end - 4]
        if zlib.crc32(content, zlib.crc32(name)) != int.from_bytes(file[end - 4 : end], "big"):
            raise _damaged("a checksum is wrong")
        yield name, content, file[position:end]
        position = end


def _check_header(header: bytes) -> None:
    if len(header) != 13 or header[9] not in _CHANNELS:
        raise _damaged("its header gives no size or format")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    check_size(width, height)
    size = width * height * _CHANNELS[header[9]] * max(1, header[8] // 8)
    if size > MAX_BYTES:
        raise ImageError(
            "bad_size",
            f"its PNG of {width}x{height} would take too long to decode; send smaller images, or "
            "JPEG",
        )


def _damaged(why: str) -> DamagedImageError:
    return DamagedImageError(
        "damaged",
        f"its PNG is damaged ({why}); check for data loss between the sender and this node",
    )
