# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a language model's own vision tower sees of a camera image, as its own processor has it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.bundle.manifest import TilesSpec, TowerSpec
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
            size = size_by_longest_edge((whole.shape[1], whole.shape[0]), self._spec.longest_edge)
            whole = self._resized(whole, size)
        if self._spec.tiles is None:
            return self._preprocessor.run(whole)[0].copy()
        return self._cut(whole, self._spec.tiles)

    def _cut(self, image: NDArray[np.uint8], tiles: TilesSpec) -> NDArray[np.uint8]:
        """Tiles row by row, and the whole before or behind them."""
        spec = self._spec.image
        width, height = spec.processor.size if spec.processor is not None else (0, 0)
        size = (tiles.columns * width, tiles.rows * height)
        if tiles.content is None:
            canvas = self._resized(image, size)
            image = image if tiles.apart else canvas
        else:
            canvas = np.zeros((size[1], size[0], 3), np.uint8)
            fitted = fit_inside((image.shape[1], image.shape[0]), tiles.content)
            left, top = (size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2
            part = canvas[top : top + fitted[1], left : left + fitted[0]]
            part[:] = self._resized(image, fitted)
        corners = [
            (row * height, column * width)
            for row in range(tiles.rows)
            for column in range(tiles.columns)
        ]
        # Pixels after the last whole patch are not read.
        cut = [canvas[y : y + spec.height, x : x + spec.width] for y, x in corners]
        whole = self._preprocessor.run(image)[0][0]
        return np.stack([whole, *cut] if tiles.whole == "first" else [*cut, whole])

    def _resized(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """To a width and height, by the filter of the processor."""
        processor = self._spec.image.processor
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


def fit_inside(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image that is fitted into a target, undistorted.

    Rounded up, as transformers' get_patch_output_size does.
    """
    across, down = target[0] / source[0], target[1] / source[1]
    if across < down:
        return target[0], min(math.ceil(source[1] * across), target[1])
    return min(math.ceil(source[0] * down), target[0]), target[1]


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
