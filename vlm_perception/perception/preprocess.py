# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Fits a camera image of any size into the image that the vision graph takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_perception.bundle.manifest import ImageSpec, ProcessorSpec
from vlm_perception.common.errors import VlmPerceptionError

# Pixels to each side that Pillow's Lanczos looks at, where nothing is shrunk.
WIDEST_FILTER = 3

# More pixels than a resized image may have before it is cropped: strips of hundreds to one.
LARGEST_RESIZED = 1 << 24


class FrameError(VlmPerceptionError):
    """An image cannot be encoded; the message says what is wrong with it."""


@dataclass(frozen=True)
class Placement:
    """Where the whole source image is in the graph's image, in the latter's pixels.

    Left and top are negative where the graph's image is cut out of it.
    """

    source_width: int
    source_height: int
    left: int
    top: int
    width: int
    height: int

    def to_source(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """A box (x, y, width, height) in pixels of the source, clipped to it.

        Width and height are 0 if the box is in the padding.
        """
        x0, y0, x1, y1 = self._edges(box)
        left, top = int(x0), int(y0)
        return left, top, int(np.ceil(x1)) - left, int(np.ceil(y1)) - top

    def in_source(
        self, box: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        """The same as `to_source`, to fractions of a pixel."""
        x0, y0, x1, y1 = self._edges(box)
        return x0, y0, x1 - x0, y1 - y0

    def _edges(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the source, clipped to it."""
        x, y, width, height = box
        across = self.source_width / self.width
        down = self.source_height / self.height
        x0 = min(max((x - self.left) * across, 0.0), self.source_width)
        y0 = min(max((y - self.top) * down, 0.0), self.source_height)
        x1 = min(max((x + width - self.left) * across, 0.0), self.source_width)
        y1 = min(max((y + height - self.top) * down, 0.0), self.source_height)
        return x0, y0, x1, y1


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


def place_as_processor(source: tuple[int, int], spec: ProcessorSpec) -> Placement:
    """Where transformers' image processors put an image.

    Args:
        source: width and height of the camera image.
        spec: the checkpoint's processor.
    """
    if isinstance(spec.resize, int):
        shorter, longer = min(source), max(source)
        # Rounded down, as in transformers' get_resize_output_image_size.
        long = int(spec.resize * longer / shorter)
        width, height = (long if side > shorter else spec.resize for side in source)
    else:
        width, height = spec.resize
    across, down = (width, height) if spec.crop is None else spec.crop
    return Placement(
        source_width=source[0],
        source_height=source[1],
        left=-((width - across) // 2),
        top=-((height - down) // 2),
        width=width,
        height=height,
    )


def place_in(source: tuple[int, int], spec: ImageSpec) -> Placement:
    """Where a bundle's preprocessing puts an image.

    Args:
        source: width and height of the camera image.
        spec: the bundle's image.
    """
    if spec.processor is None:
        return place(source, (spec.width, spec.height))
    return place_as_processor(source, spec.processor)


class Preprocessor:
    """Fits frames into one buffer, which the next frame overwrites."""

    def __init__(self, spec: ImageSpec, *, exact: bool = False) -> None:
        """Prepare a buffer.

        Args:
            spec: one bundle's image.
            exact: come within no level of transformers' processor but give its very pixels, which
                takes longer where most of an image is cut away.
        """
        self._spec, self._exact = spec, exact
        self._buffer = np.empty((1, spec.height, spec.width, 3), np.uint8)
        self._placement: Placement | None = None

    def run(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Placement]:
        """Fit an image in.

        Args:
            image: RGB [height, width, 3]; of a reversed view of BGR, the channels are swapped when
                it has been shrunk.

        Returns:
            The buffer [1, height, width, 3], valid until the next call, and where the image is in
            it.

        Raises:
            FrameError: the array is no such image.
        """
        check_image(image)
        placement = self._prepare(image.shape[1], image.shape[0])
        of_bgr = image.strides[2] < 0
        stored = image[..., ::-1] if of_bgr else image
        if self._spec.processor is None:
            rows = slice(placement.top, placement.top + placement.height)
            columns = slice(placement.left, placement.left + placement.width)
            target = self._buffer[0, rows, columns]
            _average(stored, target)
        else:
            target = self._process(stored, placement, self._spec.processor)
        if of_bgr:
            target[:] = cv2.cvtColor(target, cv2.COLOR_BGR2RGB)
        return self._buffer, placement

    def _process(
        self, image: NDArray[np.uint8], placement: Placement, processor: ProcessorSpec
    ) -> NDArray[np.uint8]:
        """Fill the part of the buffer that shows something of the image, and return it."""
        across = _part(placement.left, placement.width, self._spec.width, image.shape[1])
        down = _part(placement.top, placement.height, self._spec.height, image.shape[0])
        target = self._buffer[0, down.seen, across.seen]
        if processor.resample == "area":
            _average(image[down.nearest, across.nearest], target)
            return target
        resample = Image.Resampling[processor.resample.upper()]
        shrinks = placement.width <= image.shape[1] and placement.height <= image.shape[0]
        area = placement.width * placement.height
        cuts = shrinks and isinstance(processor.resize, int) and not self._exact
        if area > LARGEST_RESIZED or cuts:
            # What the crop cuts away is not computed: half of it, for a wide image.
            window = np.ascontiguousarray(image[down.needed, across.needed])
            size = (across.seen.stop - across.seen.start, down.seen.stop - down.seen.start)
            box = (across.low, down.low, across.high, down.high)
            result = np.asarray(Image.fromarray(window).resize(size, resample, box))
        else:
            # The very pixels of transformers; enlarging multiplies Pillow's rounding errors.
            size = (placement.width, placement.height)
            resized = np.asarray(Image.fromarray(image).resize(size, resample))
            result = resized[down.cut, across.cut]
        target[:] = result
        return target

    def _prepare(self, width: int, height: int) -> Placement:
        """The place for this size; when the size is new the padding is painted again."""
        last = self._placement
        if last is not None and (last.source_width, last.source_height) == (width, height):
            return last
        self._buffer[:] = self._spec.pad
        self._placement = place_in((width, height), self._spec)
        return self._placement


def _average(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Fill a target with an image: area averages where it shrinks, else linear."""
    height, width = target.shape[:2]
    shrinks = image.shape[0] > height or image.shape[1] > width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(image, (width, height), dst=target, interpolation=interpolation)


@dataclass(frozen=True)
class _Part:
    """What a crop leaves of an image, along one axis."""

    seen: slice
    """The pixels of the graph's image that hold some of the image."""
    cut: slice
    """The same pixels, counted from the start of the resized image."""
    needed: slice
    """The pixels of the source that those are computed from."""
    low: float
    high: float
    """The edges of `seen`, in pixels of the source from the start of `needed`."""

    @property
    def nearest(self) -> slice:
        """The whole pixels of the source that come nearest to those edges."""
        low = self.needed.start + round(self.low)
        return slice(low, max(low + 1, self.needed.start + round(self.high)))


def _part(start: int, length: int, end: int, source: int) -> _Part:
    """The part of a resized axis that is within 0 .. end.

    Pillow takes the edges in single precision: counted from the start of `needed` they are exact
    enough to come within one level of resizing everything and cropping then.
    """
    first, last = max(0, start), min(end, start + length)
    # Multiplied before divided: the edges of the source come out exactly.
    low, high = (first - start) * source / length, (last - start) * source / length
    margin = math.ceil(WIDEST_FILTER * max(1.0, source / length)) + 1
    begin = max(0, math.floor(low) - margin)
    needed = slice(begin, min(source, math.ceil(high) + margin))
    cut = slice(first - start, last - start)
    return _Part(slice(first, last), cut, needed, low - begin, high - begin)


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is no RGB image [height, width, 3] of uint8.

    Raises:
        FrameError: it is none, or has no pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(
            f"an image must be uint8 [height, width, 3] but is {image.dtype} {list(image.shape)}; "
            "convert it to rgb8"
        )
    if not image.size:
        raise FrameError(
            f"the image is {image.shape[1]}x{image.shape[0]} pixels; the camera sent an empty image"
        )
