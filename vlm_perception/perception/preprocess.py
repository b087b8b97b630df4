# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Fits a camera image of any size into the image that the vision graph takes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle import ImageSpec


class FrameError(ValueError):
    """An image cannot be encoded; the message says what is wrong with it."""


@dataclass(frozen=True)
class Placement:
    """Where the source image lies in the graph's image, in the latter's pixels."""

    source_width: int
    source_height: int
    left: int
    top: int
    width: int
    height: int

    def to_source(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """A box (x, y, width, height) in pixels of the source, clipped to it.

        Width and height are 0 where the box lies in the padding.
        """
        x, y, width, height = box
        across = self.source_width / self.width
        down = self.source_height / self.height
        x0 = min(max((x - self.left) * across, 0.0), self.source_width)
        y0 = min(max((y - self.top) * down, 0.0), self.source_height)
        x1 = min(max((x + width - self.left) * across, 0.0), self.source_width)
        y1 = min(max((y + height - self.top) * down, 0.0), self.source_height)
        left, top = int(x0), int(y0)
        return left, top, int(np.ceil(x1)) - left, int(np.ceil(y1)) - top


def place(source: tuple[int, int], target: tuple[int, int]) -> Placement:
    """Letterbox: the largest centred place that neither distorts nor crops.

    Args:
        source: width and height of the camera image.
        target: width and height of the graph's image.
    """
    scale = min(target[0] / source[0], target[1] / source[1])
    width = min(target[0], max(1, round(source[0] * scale)))
    height = min(target[1], max(1, round(source[1] * scale)))
    return Placement(
        source_width=source[0],
        source_height=source[1],
        left=(target[0] - width) // 2,
        top=(target[1] - height) // 2,
        width=width,
        height=height,
    )


class Preprocessor:
    """Letterboxes frames into one buffer, which the next frame overwrites."""

    def __init__(self, spec: ImageSpec) -> None:
        """Prepare a buffer for one bundle's image."""
        self._spec = spec
        self._buffer = np.empty((1, spec.height, spec.width, 3), np.uint8)
        self._placement: Placement | None = None

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Placement]:
        """Fit an image in.

        Args:
            image: RGB [height, width, 3].

        Returns:
            The buffer [1, height, width, 3], valid until the next call, and where the image lies.

        Raises:
            FrameError: the array is no such image.
        """
        _check(image)
        placement = self._prepare(image.shape[1], image.shape[0])
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        target = self._buffer[0, rows, columns]
        shrinks = image.shape[0] > placement.height or image.shape[1] > placement.width
        cv2.resize(
            image,
            (placement.width, placement.height),
            dst=target,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        return self._buffer, placement

    def _prepare(self, width: int, height: int) -> Placement:
        """The place for this size; when the size is new the padding is painted again."""
        last = self._placement
        if last is not None and (last.source_width, last.source_height) == (width, height):
            return last
        self._buffer[:] = self._spec.pad
        self._placement = place((width, height), (self._spec.width, self._spec.height))
        return self._placement


def _check(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(
            f"an image must be uint8 [height, width, 3] and is {image.dtype} {list(image.shape)}; "
            "convert it to rgb8"
        )
    if not image.size:
        raise FrameError(
            f"the image is {image.shape[1]}x{image.shape[0]} pixels; the camera sent nothing"
        )
