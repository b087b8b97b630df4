# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Views of pixels: a part of an image, at the size that a student or a teacher takes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.training.distillation.examples import View


def crop(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """The pixels [H, W, ...] that a view shows, mirrored if it is."""
    height, width = pixels.shape[:2]
    left, top = round(view.left * width), round(view.top * height)
    part = pixels[
        top : top + max(1, round(view.scale * height)),
        left : left + max(1, round(view.scale * width)),
    ]
    return np.asarray(cv2.flip(part, 1), np.uint8) if view.mirrored else part


def brightened(pixels: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    """Pixels times a gain."""
    if gain == 1.0:
        return np.ascontiguousarray(pixels)
    scaled = cv2.convertScaleAbs(np.ascontiguousarray(pixels), alpha=gain)
    return np.asarray(scaled, np.uint8)


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels at another size (width, height), stretched where the aspect ratio differs."""
    smaller = size[0] <= pixels.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(
        cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method), np.uint8
    )
