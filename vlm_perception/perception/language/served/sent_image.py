# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An image as a chat message holds it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from vlm_perception.perception.details import shrunk


def data_url(image: NDArray[np.uint8], longest: int, quality: int) -> str:
    """A JPEG of an image, undistorted, as a URL that holds it.

    Args:
        image: uint8 RGB [height, width, 3].
        longest: pixels that its longer side may have.
        quality: of the JPEG, 1 to 100.
    """
    pixels = np.ascontiguousarray(shrunk(image, longest))
    file = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB")
    return f"data:image/jpeg;base64,{base64.b64encode(file).decode('ascii')}"


def message(images: Sequence[str], text: str) -> dict[str, Any]:
    """A user's message with images before its text: what stays the same comes first.

    Args:
        images: as `data_url` makes them, the oldest first.
        text: taken literally.
    """
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": image}} for image in images
    ]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
