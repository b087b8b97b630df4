# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Blurs what may name a person: faces and number plates."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.private_regions import Box, find_regions
from vlm_perception.curation.image_files import UsableImage, decode, encoded
from vlm_perception.media.image_errors import ImageError

SQUARES = (6, 3, 1)
"""How many a region is made of along its shorter side, each time that it is found again; at last
it gets one colour."""
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
        ImageError: something is found to the last.
        CurationError: the installed OpenCV has no detector.
    """
    known: dict[str, list[Box]] = {kind: [] for kind in kinds}
    image = None
    for squares in (*SQUARES, 0):
        found = {kind: find_regions(pixels, kind) for kind in kinds}
        if not any(found.values()):
            break
        for kind, boxes in found.items():
            known[kind] += [box for box in boxes if not _is_known(box, known[kind])]
            for box in boxes:
                pixels = blurred(pixels, box, squares)
        told = tuple(f"{kind} blurred: {len(boxes)}" for kind, boxes in known.items())
        image = encoded(pixels, told)
        pixels = decode(image.file)
    else:
        if any(find_regions(pixels, kind) for kind in kinds):
            raise ImageError(
                "private", f"{' or '.join(kinds)} are found in it even where it was made one colour"
            )
    return image, {kind: len(boxes) for kind, boxes in known.items()}


def _is_known(box: Box, known: Sequence[Box]) -> bool:
    """Whether a region's centre lies in one that was found in an earlier round."""
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return any(
        left <= x <= left + width and top <= y <= top + height for left, top, width, height in known
    )


def blurred(pixels: NDArray[np.uint8], box: Box, squares: int) -> NDArray[np.uint8]:
    """An image one region of which is made of a few squares, with soft edges between them.

    Args:
        pixels: uint8 RGB [height, width, 3].
        box: the region; a margin is blurred, too.
        squares: along its shorter side; 0: it gets one colour, its mean.
    """
    left, top, width, height = box
    across, down = round(MARGIN * width), round(MARGIN * height)
    rows = slice(max(0, top - down), top + height + down)
    columns = slice(max(0, left - across), left + width + across)
    region = pixels[rows, columns]
    result = pixels.copy()
    if not squares:
        result[rows, columns] = region.mean(axis=(0, 1)).round()
        return result
    shape = region.shape[1::-1]
    side = max(1, min(shape) // squares)
    few = (max(1, shape[0] // side), max(1, shape[1] // side))
    coarse = cv2.resize(region, few, interpolation=cv2.INTER_AREA)
    result[rows, columns] = cv2.GaussianBlur(
        cv2.resize(coarse, shape, interpolation=cv2.INTER_NEAREST), (0, 0), max(1.0, side / 2)
    )
    return result
