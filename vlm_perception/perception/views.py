# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model's own vision tower sees of a camera image, as its own processor has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.bundle.manifest import TowerSpec
from vlm_perception.perception.preprocess import Preprocessor, check_image


class Views:
    """Makes the views of an image; for one thread."""

    def __init__(self, spec: TowerSpec) -> None:
        """Prepare for one bundle's tower."""
        self._spec = spec
        self._preprocessor = Preprocessor(spec.image, exact=True)

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fit an image in.

        Args:
            image: RGB [height, width, 3].

        Returns:
            The views, RGB [views, view height, view width, 3]; nothing else refers to them.

        Raises:
            FrameError: the array is no such image.
        """
        check_image(image)
        whole = np.ascontiguousarray(image)
        if self._spec.square is not None:
            whole = _squared(whole, self._spec.square)
        if self._spec.longest_edge is not None:
            whole = self._resized(whole, self._spec.longest_edge)
        return self._preprocessor.run(whole)[0].copy()

    def _resized(self, image: NDArray[np.uint8], longest_edge: int) -> NDArray[np.uint8]:
        """To a length of the longer edge, by the filter of the processor."""
        processor = self._spec.image.processor
        size = size_by_longest_edge((image.shape[1], image.shape[0]), longest_edge)
        if processor is None or size == (image.shape[1], image.shape[0]):
            return image
        resample = Image.Resampling[processor.resample.upper()]
        return np.asarray(Image.fromarray(image).resize(size, resample))


def size_by_longest_edge(source: tuple[int, int], longest_edge: int) -> tuple[int, int]:
    """Width and height of an image whose longer edge was brought to a length; the other is even.

    As transformers' Idefics3ImageProcessor rounds, for lengths up to 4096.
    """
    width, height = source
    aspect = width / height
    if width >= height:
        width = longest_edge
        height = int(width / aspect)
        height += height % 2
    else:
        height = longest_edge
        width = int(height * aspect)
        width += width % 2
    return max(1, width), max(1, height)


def _squared(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Centred on a square of a colour."""
    height, width = image.shape[:2]
    side = max(width, height)
    if height == width:
        return image
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square
