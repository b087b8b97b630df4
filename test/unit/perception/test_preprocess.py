# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images of any size fit in: whole and undistorted, or as the checkpoint's processor does it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_perception.bundle.manifest import ImageSpec, ProcessorSpec
from vlm_perception.perception.preprocess import (
    FrameError,
    Placement,
    Preprocessor,
    place,
    place_as_processor,
)

SPEC = ImageSpec(
    width=320,
    height=180,
    patch=20,
    columns=16,
    rows=9,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pad=(128, 127, 126),
)
RANDOM = np.random.default_rng(0)
SIZES = [(1, 1), (5000, 1), (1, 5000), *RANDOM.integers(1, 5001, (200, 2)).tolist()]


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_whole_factor_averages_blocks() -> None:
    image = noise(1280, 720)
    result, placement = Preprocessor(SPEC).run(image)
    blocks = image.reshape(180, 4, 320, 4, 3).mean(axis=(1, 3))
    assert np.abs(result[0] - blocks).max() <= 0.51
    box = np.asarray(Image.fromarray(image).resize((320, 180), Image.Resampling.BOX), np.int16)
    assert np.abs(result[0] - box).max() <= 1
    assert (placement.left, placement.top, placement.width, placement.height) == (0, 0, 320, 180)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_is_cropped_or_distorted(width: int, height: int) -> None:
    placement = place((width, height), (SPEC.width, SPEC.height))
    assert placement.width == SPEC.width or placement.height == SPEC.height
    assert 0 <= placement.left <= SPEC.width - placement.width
    assert abs(SPEC.width - placement.width - 2 * placement.left) <= 1
    # Half a pixel of rounding, and never less than one pixel.
    scale = min(SPEC.width / width, SPEC.height / height)
    assert abs(placement.width - max(1, width * scale)) <= 0.5
    assert abs(placement.height - max(1, height * scale)) <= 0.5
    whole = (placement.left, placement.top, placement.width, placement.height)
    assert placement.to_source(whole) == (0, 0, width, height)


def test_boxes_stay_in_the_image() -> None:
    placement = place((301, 777), (SPEC.width, SPEC.height))
    for x, y, width, height in RANDOM.uniform((-50, -50, 0, 0), (400, 300, 400, 300), (500, 4)):
        left, top, across, down = placement.to_source((x, y, width, height))
        assert min(left, top, across, down) >= 0
        assert left + across <= 301
        assert top + down <= 777


@pytest.mark.parametrize("size", [(1, 1), (4096, 2160), (2160, 4096), (7, 3001), (320, 180)])
def test_padding_is_the_mean_colour_and_does_not_outlive_its_frame(size: tuple[int, int]) -> None:
    preprocessor = Preprocessor(SPEC)
    preprocessor.run(np.full((720, 1280, 3), 255, np.uint8))
    white = np.full((size[1], size[0], 3), 255, np.uint8)
    result, placement = preprocessor.run(white)
    inside = np.zeros((SPEC.height, SPEC.width), bool)
    inside[
        placement.top : placement.top + placement.height,
        placement.left : placement.left + placement.width,
    ] = True
    assert (result[0][inside] == 255).all()
    assert (result[0][~inside] == SPEC.pad).all()
    fresh, _ = Preprocessor(SPEC).run(white)
    assert np.array_equal(fresh, result)


def test_a_view_of_a_padded_image_is_taken_as_it_is() -> None:
    padded = noise(1400, 720)
    view = padded[:, :1280]
    result = Preprocessor(SPEC).run(view)[0].copy()
    assert np.array_equal(result, Preprocessor(SPEC).run(np.ascontiguousarray(view))[0])
    assert cv2.resize(view, (320, 180), interpolation=cv2.INTER_AREA).tobytes() == result.tobytes()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"image"):
        Preprocessor(SPEC).run(image)


PROCESSORS = [
    ProcessorSpec(resample="bicubic", resize=224, crop=(224, 224)),
    ProcessorSpec(resample="bicubic", resize=256, crop=(224, 224)),
    ProcessorSpec(resample="bicubic", resize=200, crop=(224, 224)),
    ProcessorSpec(resample="bilinear", resize=(384, 384), crop=None),
    ProcessorSpec(resample="bilinear", resize=(300, 200), crop=(224, 224)),
    ProcessorSpec(resample="area", resize=224, crop=(224, 224)),
    ProcessorSpec(resample="area", resize=(300, 200), crop=(224, 224)),
]
LENGTHS = st.integers(1, 5000)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([None, *PROCESSORS]),
    LENGTHS,
    LENGTHS,
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_of_the_source_is_found_again(
    processor: ProcessorSpec | None, width: int, height: int, corners: tuple[float, ...]
) -> None:
    """There and back, a box grows by the whole pixels that it touches and no more."""
    source = (width, height)
    target = (
        place(source, (224, 224)) if processor is None else place_as_processor(source, processor)
    )
    left, right = sorted(width * part for part in corners[:2])
    top, bottom = sorted(height * part for part in corners[2:])
    x, y, across, down = target.to_source(in_graph(target, left, top, right, bottom))
    slack = 1e-6 * max(source)
    assert left - 1 - slack <= x <= left + slack
    assert top - 1 - slack <= y <= top + slack
    assert right - slack <= x + across <= right + 1 + slack
    assert bottom - slack <= y + down <= bottom + 1 + slack
    assert x + across <= width
    assert y + down <= height


def in_graph(
    placement: Placement, left: float, top: float, right: float, bottom: float
) -> tuple[float, float, float, float]:
    """A box of the source in pixels of the graph's image, as x, y, width and height."""
    across = placement.width / placement.source_width
    down = placement.height / placement.source_height
    return (
        placement.left + left * across,
        placement.top + top * down,
        (right - left) * across,
        (bottom - top) * down,
    )


def test_a_crop_and_a_distortion_show_what_they_should() -> None:
    """White squares in black: each comes out where its placement says."""
    for processor in PROCESSORS:
        spec = spec_of(processor, processor.size[0], 16)
        image = np.zeros((400, 600, 3), np.uint8)
        image[150:250, 250:350] = 255
        result, placement = Preprocessor(spec).run(image)
        rows, columns = np.nonzero(result[0, :, :, 0] >= 128)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert np.abs(np.subtract(placement.to_source(box), (250, 150, 100, 100))).max() <= 2


def spec_of(processor: ProcessorSpec, side: int, patch: int) -> ImageSpec:
    return ImageSpec(
        width=side,
        height=side,
        patch=patch,
        columns=side // patch,
        rows=side // patch,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pad=(0, 0, 0),
        processor=processor,
    )


@pytest.mark.parametrize("processor", [None, *PROCESSORS], ids=str)
@pytest.mark.parametrize("size", [(640, 360), (90, 50)])
def test_bgr_becomes_the_same_pixels(
    processor: ProcessorSpec | None, size: tuple[int, int]
) -> None:
    spec = SPEC if processor is None else spec_of(processor, processor.size[0], 16)
    image = noise(*size)
    expected = Preprocessor(spec).run(image)[0]
    bgr = np.ascontiguousarray(image[..., ::-1])
    assert np.array_equal(Preprocessor(spec).run(bgr[..., ::-1])[0], expected)


def test_a_processor_must_give_one_size_and_enough_of_it() -> None:
    with pytest.raises(ValueError, match="must crop to a size"):
        ProcessorSpec(resample="bicubic", resize=224, crop=None)
    with pytest.raises(ValueError, match="outputs 224x224 pixels, but the model takes 240x240"):
        spec_of(PROCESSORS[0], 240, 16)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (225, 224), (3, 7)])
def test_the_fast_resize_takes_any_image(size: tuple[int, int]) -> None:
    spec = spec_of(ProcessorSpec(resample="area", resize=224, crop=(224, 224)), 224, 16)
    result, _ = Preprocessor(spec).run(np.full((size[1], size[0], 3), 77, np.uint8))
    assert (result == 77).all()


def test_the_fast_resize_averages_what_the_crop_leaves() -> None:
    image = noise(1344, 672)
    spec = spec_of(ProcessorSpec(resample="area", resize=224, crop=(224, 224)), 224, 16)
    blocks = image[:, 336:1008].reshape(224, 3, 224, 3, 3).mean(axis=(1, 3))
    assert np.abs(Preprocessor(spec).run(image)[0][0] - blocks).max() <= 0.51
