# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images of all encodings become the right pixels, and lying ones are refused."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from camera import compressed, image, picture, to_bayer, to_yuv422

from vlm_perception.perception.image_conversion import (
    ENCODINGS,
    convert_with_cv_bridge,
    convert_with_rosbags,
    pack,
    to_rgb,
)
from vlm_perception.perception.image_errors import ImageError

WIDTH, HEIGHT = 46, 30
RGB = picture(WIDTH, HEIGHT)
GREY = RGB[..., 1]


def message(encoding: str, **how: Any) -> Any:
    """An image of RGB, or of GREY, in this encoding."""
    depth = 257 if encoding.endswith("16") else 1
    wide = RGB.astype(np.uint16) * 257 if depth > 1 else RGB
    alpha = np.full((HEIGHT, WIDTH, 1), 9 * depth, wide.dtype)
    name = encoding.rstrip("0123456789")
    if name in ("mono", "8UC") and encoding not in {"8UC3", "8UC4"}:
        return image(wide[..., 1], encoding, **how)
    if name.startswith("bayer"):
        mosaic = to_bayer(RGB, name.removeprefix("bayer_"))
        return image(mosaic.astype(wide.dtype) * depth, encoding, **how)
    if encoding in ("uyvy", "yuv422"):
        return image(to_yuv422(RGB, "uyvy"), encoding, **how)
    if encoding in ("yuyv", "yuv422_yuy2"):
        return image(to_yuv422(RGB, "yuyv"), encoding, **how)
    blue_first = name.startswith("bgr") or name == "8UC"
    colours = wide[..., ::-1] if blue_first else wide
    if name.endswith("a") or encoding == "8UC4":
        colours = np.concatenate([colours, alpha], axis=-1)
    return image(colours, encoding, **how)


def expected(encoding: str) -> tuple[np.ndarray, float]:
    """The RGB pixels, and by how many levels (95th percentile) a conversion may be off."""
    if encoding.startswith("mono") or encoding == "8UC1":
        return np.repeat(GREY[..., None], 3, axis=-1), 0
    if encoding.startswith("bayer"):
        return RGB, 12
    return RGB, 8 if encoding.startswith(("yuv", "uyvy", "yuyv")) else 0


@pytest.mark.parametrize("how", [{}, {"padding": 5}], ids=["tight", "padded"])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_each_encoding_becomes_rgb(encoding: str, how: dict[str, Any]) -> None:
    result = to_rgb(message(encoding, **how))
    truth, levels = expected(encoding)
    assert result.shape == (HEIGHT, WIDTH, 3) and result.dtype == np.uint8
    difference = np.abs(result.astype(int) - truth)
    assert np.percentile(difference, 95) <= levels, f"off by {difference.max()}"


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.endswith("16")])
def test_big_endian_is_swapped(encoding: str) -> None:
    assert np.array_equal(
        to_rgb(message(encoding, big_endian=True)), to_rgb(message(encoding, padding=7))
    )


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_cv_bridge_and_rosbags_agree(encoding: str) -> None:
    pytest.importorskip("cv_bridge", reason="no ROS installation with cv_bridge is sourced")
    packed = pack(message(encoding))
    ours, theirs = convert_with_rosbags(packed), convert_with_cv_bridge(packed)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3), (72, 128), (4096, 2160)])
def test_odd_sizes(width: int, height: int) -> None:
    pixels = picture(width, height)
    assert np.array_equal(to_rgb(image(pixels, "rgb8")), pixels)
    assert np.array_equal(to_rgb(image(pixels[..., ::-1], "bgr8")), pixels)
    assert to_rgb(compressed(pixels)).shape == pixels.shape
    assert np.array_equal(to_rgb(compressed(pixels, ".png")), pixels)


def test_grey_jpeg() -> None:
    result = to_rgb(compressed(np.ascontiguousarray(GREY)))
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(result[..., 0].astype(int) - GREY).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".bmp"])
def test_other_files_than_jpeg(suffix: str) -> None:
    assert np.abs(to_rgb(compressed(RGB, suffix)).astype(int) - RGB).mean() < 3


def lying() -> dict[str, Any]:
    """Messages that contradict themselves, by the kind of the complaint."""
    short, long = message("rgb8"), message("rgb8")
    short.data = short.data[:-100]
    long.data = long.data + long.data[:10]
    step = message("rgb8")
    step.step = WIDTH * 3 - 1
    empty = message("rgb8")
    empty.width = 0
    giant = message("mono8")
    giant.width = giant.height = giant.step = 2**31
    cut = compressed(RGB)
    cut.data = cut.data[: len(cut.data) // 2]
    cut_png = compressed(RGB, ".png")
    cut_png.data = cut_png.data[:-40]
    noise = compressed(RGB)
    noise.data = noise.data[::-1]
    nothing = compressed(RGB)
    nothing.data = nothing.data[:0]
    giant_file = compressed(RGB, ".bmp")
    giant_file.data[18:26] = array("B", np.array([30_000, 30_000], "<i4").tobytes())
    depth = compressed(RGB)
    depth.format = "32FC1; compressedDepth"
    odd = image(picture(45, 30)[..., :2], "yuv422")
    return {
        "bad_encoding": image(RGB, "rgb9"),
        "bad_encoding ": image(RGB, ""),
        "bad_data_length": short,
        "bad_data_length ": long,
        "bad_step": step,
        "bad_size": empty,
        "bad_size ": giant,
        "bad_size  ": odd,
        "bad_size   ": giant_file,
        "truncated": cut,
        "truncated ": cut_png,
        "bad_format": noise,
        "bad_format ": depth,
        "bad_data_length  ": nothing,
    }


@pytest.mark.parametrize("case", sorted(lying()))
def test_lying_images_are_refused(case: str) -> None:
    with pytest.raises(ImageError) as caught:
        to_rgb(lying()[case])
    assert caught.value.kind == case.strip()


def test_any_cut_of_a_jpeg_is_refused() -> None:
    whole = compressed(picture(64, 48))
    for length in range(1, len(whole.data) - 1, 7):
        cut = compressed(picture(64, 48))
        cut.data = whole.data[:length]
        with pytest.raises(ImageError):
            to_rgb(cut)
