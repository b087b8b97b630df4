# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Blurs what may name a person: faces and number plates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.private_regions import Box, find_regions
from vlm_perception.curation.image_files import UsableImage, decode, encoded

SQUARES = (6, 3, 1)
"""How many a region is made of along its shorter side, each time that it is found again."""
MARGIN = 0.15
"""Of a region's size, beyond each of its edges."""


def blur_regions(
    pixels: NDArray[np.uint8], kinds: Sequence[str]
) -> tuple[UsableImage | None, dict[str, int]]:
    """Blur an image's regions until the detectors do not find them again in the stored file.

    Args:
        pixels: uint8 RGB [height, width, 3].
        kinds: of the regions.

    Returns:
        The image as it is stored, None where nothing is found, and the count of regions by kind.

    Raises:
        CurationError: the installed OpenCV has no detector.
    """
    counts, image = Counter(dict.fromkeys(kinds, 0)), None
    for squares in SQUARES:
        found = {kind: find_regions(pixels, kind) for kind in kinds}
        boxes = [box for some in found.values() for box in some]
        if not boxes:
            break
        if image is None:
            counts.update({kind: len(some) for kind, some in found.items()})
        for box in boxes:
            pixels = blurred(pixels, box, squares)
        image = encoded(pixels, tuple(f"{kind} blurred: {counts[kind]}" for kind in kinds))
        pixels = decode(image.file)
    return image, dict(counts)


def blurred(pixels: NDArray[np.uint8], box: Box, squares: int) -> NDArray[np.uint8]:
    """An image one region of which is made of a few squares, with soft edges between them.

    Args:
        pixels: uint8 RGB [height, width, 3].
        box: the region; a margin is blurred, too.
        squares: along its shorter side.
    """
    left, top, width, height = box
    across, down = round(MARGIN * width), round(MARGIN * height)
    rows = slice(max(0, top - down), top + height + down)
    columns = slice(max(0, left - across), left + width + across)
    region = pixels[rows, columns]
    shape = region.shape[1::-1]
    side = max(1, min(shape) // squares)
    few = (max(1, shape[0] // side), max(1, shape[1] // side))
    coarse = cv2.resize(region, few, interpolation=cv2.INTER_AREA)
    result = pixels.copy()
    result[rows, columns] = cv2.GaussianBlur(
        cv2.resize(coarse, shape, interpolation=cv2.INTER_NEAREST), (0, 0), max(1.0, side / 2)
    )
    return result
