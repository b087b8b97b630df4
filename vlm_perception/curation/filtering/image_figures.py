# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What filters judge an image by: perceptual hash, sharpness, brightness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

HASHED_SIDE = 32
HASH_SIDE = 8
REFERENCE_PIXELS = 224 * 224
SIZE_POWER = 0.75


@dataclass(frozen=True)
class ImageFigures:
    """The figures of an image."""

    phash: int
    """64 bits; see `perceptual_hash`."""
    sharpness: float
    """See `sharpness`."""
    brightness: float
    """Mean of the grey image, 0 (black) to 255."""


def image_figures(pixels: NDArray[np.uint8]) -> ImageFigures:
    """The figures of an image.

    Args:
        pixels: uint8 RGB [height, width, 3].
    """
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    return ImageFigures(perceptual_hash(grey), sharpness(grey), float(grey.mean()))


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """The perceptual hash (pHash) of an image, as a number of 64 bits.

    The image is averaged to 32x32 and transformed by a two-dimensional DCT. Of its coefficients
    (1, 1) to (8, 8), without the lowest of each axis, a bit is set for each that lies above their
    median (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    section 3.2.1). Comparable only with itself: libraries differ in how they shrink the image and
    in which coefficients they take.

    Args:
        grey: uint8 [height, width].
    """
    small = cv2.resize(grey, (HASHED_SIDE, HASHED_SIDE), interpolation=cv2.INTER_AREA)
    transformed = np.asarray(cv2.dct(np.asarray(small, np.float32)), np.float32)
    low = transformed[1 : HASH_SIDE + 1, 1 : HASH_SIDE + 1]
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def sharpness(grey: NDArray[np.uint8]) -> float:
    """How much detail an image shows.

    The standard deviation of the Laplacian in grey levels, times (pixels / 224^2)^(3/4). The factor
    makes copies of several sizes comparable: one that was enlarged or made smaller has less than
    its original. By the bare deviation smaller copies are the sharpest, and with the power of 1
    enlarged ones are, as the operator of 3x3 pixels misses the finest details of the original.

    Args:
        grey: uint8 [height, width].
    """
    deviation = float(cv2.Laplacian(grey, cv2.CV_16S).std())
    return deviation * float((grey.size / REFERENCE_PIXELS) ** SIZE_POWER)
