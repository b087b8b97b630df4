# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of an image, as people make them; uint8 [height, width, channels] each."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def jpeg_50(image: Image) -> Image:
    """Compressed to JPEG of quality 50."""
    _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)


def smaller(image: Image, share: float) -> Image:
    """With that share of the width and of the height, at least a pixel of each."""
    height, width = (max(1, int(side * share)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def cropped(image: Image) -> Image:
    """Without a tenth of the width and of the height, a twentieth at each edge."""
    down, across = image.shape[0] // 20, image.shape[1] // 20
    return np.ascontiguousarray(image[down : len(image) - down, across : image.shape[1] - across])


def flipped(image: Image) -> Image:
    """Left and right exchanged."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


def rotated_25(image: Image) -> Image:
    """Rotated by 25 degrees about the centre, in its own size; the corners are black."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 25.0, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height)), np.uint8)
