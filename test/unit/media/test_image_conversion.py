# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images of all encodings become the right pixels, and lying ones are refused."""

from __future__ import annotations

import io
from array import array
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.image import message_to_cvimage
from sensor_msgs.msg import CompressedImage
from support import jpeg_corpora
from support.camera import compressed, image, picture, to_bayer, to_planes, to_yuv422

from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_message import (
    ACCEPT,
    ENCODINGS,
    ImageOptions,
    convert,
    to_rgb,
)
from vlm_perception.media.image_reader import RECENT, ImageReader

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
    if encoding.startswith("nv"):
        return to_planes(RGB, encoding, **how)
    if encoding in ("yuyv", "yuv422_yuy2", "yuy2"):
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
    if encoding.startswith(("bayer", "nv12", "nv21")):
        return RGB, 12
    return RGB, 8 if encoding.startswith(("yuv", "uyvy", "yuy", "nv")) else 0


@pytest.mark.parametrize("how", [{}, {"padding": 5}], ids=["tight", "padded"])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_each_encoding_becomes_rgb(encoding: str, how: dict[str, Any]) -> None:
    result = to_rgb(message(encoding, **how))
    truth, levels = expected(encoding)
    assert result.shape == (HEIGHT, WIDTH, 3) and result.dtype == np.uint8
    difference = np.abs(result.astype(int) - truth)
    assert np.percentile(difference, 95) <= levels, f"off by {difference.max()}"
    assert np.array_equal(convert(message(encoding, **how), view=True).pixels, result)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.endswith("16")])
def test_big_endian_is_swapped(encoding: str) -> None:
    assert np.array_equal(
        to_rgb(message(encoding, big_endian=True)), to_rgb(message(encoding, padding=7))
    )


def tight(encoding: str) -> Any:
    """The message as other libraries read it: rows of 8 bits, and the colours' rows counted."""
    made = message(encoding)
    rows = len(made.data) // made.step
    return SimpleNamespace(
        encoding={"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "yuy2": "yuyv"}.get(
            encoding, encoding
        ),
        height=rows,
        width=made.width,
        step=made.step,
        is_bigendian=0,
        data=np.frombuffer(made.data, np.uint8),
    )


@pytest.mark.parametrize(
    "encoding", [name for name in ENCODINGS if not name.endswith("16") and name != "nv24"]
)
def test_others_convert_to_the_same_pixels(encoding: str) -> None:
    # Through cv_bridge where ROS brings it, whose OpenCV is another one.
    ours = to_rgb(message(encoding)).astype(int)
    assert np.abs(ours - message_to_cvimage(tight(encoding), "rgb8")).max() <= 1


def test_colours_of_each_pixel_are_converted_as_opencv_converts_shared_ones() -> None:
    blocks = np.repeat(np.repeat(picture(23, 15), 2, axis=0), 2, axis=1)
    four, two = (to_rgb(to_planes(blocks, name)) for name in ("nv24", "nv12"))
    assert np.array_equal(four, two)


@pytest.mark.parametrize("encoding", ["YUYV", "NV12", "YUY2", "BGR8"])
def test_encodings_are_known_in_capitals(encoding: str) -> None:
    made = message(encoding.lower())
    made.encoding = encoding
    assert np.array_equal(to_rgb(made), to_rgb(message(encoding.lower())))


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


def described(made: Any, text: str) -> Any:
    made.format = text
    return made


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_mosaics_in_files_become_colours(pattern: str) -> None:
    mosaic = to_bayer(RGB, pattern)
    wide = mosaic.astype(np.uint16) * 257
    _, file = cv2.imencode(".jpg", mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])
    jpeg = CompressedImage(format=f"bayer_{pattern}8; jpeg compressed ", data=array("B", file))
    png = described(compressed(mosaic, ".png"), f"bayer_{pattern}8; png compressed ")
    deep = described(compressed(wide, ".png"), f"bayer_{pattern}16; png compressed ")
    truth = to_rgb(image(mosaic, f"bayer_{pattern}8"))
    assert np.array_equal(to_rgb(png), truth)
    assert np.array_equal(to_rgb(deep), truth)
    assert np.abs(to_rgb(jpeg).astype(int) - truth).mean() < 3


def test_what_was_no_mosaic_any_more_is_left_alone() -> None:
    jpeg = described(compressed(RGB), "bayer_rggb8; jpeg compressed bgr8")
    assert np.array_equal(to_rgb(jpeg), to_rgb(compressed(RGB)))
    grey = described(compressed(GREY, ".png"), "bayer_rggb8; png compressed mono8")
    assert np.array_equal(to_rgb(grey)[..., 0], GREY)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_orientation_in_the_file_is_ignored(suffix: str) -> None:
    plain = compressed(RGB, suffix)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = bytes(plain.data)
    if suffix == ".jpg":
        part = exif.tobytes()
        file = file[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + file[2:]
    else:
        turned = io.BytesIO()
        PIL.Image.fromarray(RGB).save(turned, "PNG", exif=exif)
        file = turned.getvalue()
    told = CompressedImage(format=plain.format, data=array("B", file))
    assert np.array_equal(to_rgb(told), to_rgb(plain))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_that_a_camera_leaves_unused(bits: int) -> None:
    low = (RGB.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    for made in (image(low, "rgb16"), compressed(low, ".png")):
        assert to_rgb(made).max() <= (255 >> (16 - bits)) + 1
        assert (
            np.abs(convert(made, ImageOptions(image_bits=bits)).pixels.astype(int) - RGB).max() <= 1
        )


def test_unused_bits_are_said_once() -> None:
    notes: list[str] = []
    dark, bright = (image(RGB.astype(np.uint16) * factor, "rgb16") for factor in (16, 257))
    reader = ImageReader(notes.append)
    for _ in range(3 * RECENT):
        reader.read(dark, ImageOptions())
    assert len(notes) == 1 and "image_bits:=12" in notes[0]
    for options, first in ((ImageOptions(image_bits=12), dark), (ImageOptions(), bright)):
        notes.clear()
        reader = ImageReader(notes.append)
        for made in (first, *[dark] * 2 * RECENT):
            reader.read(made, options)
        assert not notes


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".bmp"])
def test_other_files_than_jpeg(suffix: str) -> None:
    assert np.abs(to_rgb(compressed(RGB, suffix)).astype(int) - RGB).mean() < 3


def lying() -> dict[str, Any]:
    """Messages that contradict themselves, by the kind of the fault."""
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
    odd_planes = to_planes(RGB, "nv12")
    odd_planes.height -= 1
    no_colours = message("nv21")
    no_colours.data = no_colours.data[: WIDTH * HEIGHT]
    inside = image(RGB, "rgb8")
    jpeg = compressed(RGB).data
    inside.data[: len(jpeg)] = jpeg
    altered = compressed(RGB, ".png")
    altered.data[len(altered.data) // 2] ^= 1
    bomb = compressed(np.zeros((4000, 4000, 3), np.uint8), ".png")
    depth_png = described(compressed(GREY.astype(np.uint16), ".png"), "16UC1; png compressed ")
    packet = CompressedImage(format="h264", data=array("B", b"\0\0\0\1\x67\x42"))
    half_bmp = compressed(RGB, ".bmp")
    half_bmp.data = half_bmp.data[: len(half_bmp.data) // 2]
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
        "bad_size    ": odd_planes,
        "bad_size     ": bomb,
        "bad_encoding  ": inside,
        "bad_data_length   ": no_colours,
        "damaged": altered,
        "damaged ": half_bmp,
        "bad_format  ": depth_png,
        "bad_format   ": packet,
        "truncated": cut,
        "truncated ": cut_png,
        "bad_format": noise,
        "bad_format ": depth,
        "bad_data_length  ": nothing,
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(lying()))
def test_lying_images_are_refused(case: str) -> None:
    with pytest.raises(ImageError) as caught:
        to_rgb(lying()[case])
    assert caught.value.kind == case.strip()
    assert " object at 0x" not in str(caught.value)


def test_any_cut_of_a_jpeg_is_refused() -> None:
    whole = compressed(picture(64, 48))
    for length in range(1, len(whole.data) - 1, 7):
        cut = compressed(picture(64, 48))
        cut.data = whole.data[:length]
        with pytest.raises(ImageError):
            to_rgb(cut)


FILES = {
    suffix: bytes(compressed(picture(48, 32), suffix).data)
    for suffix in (".jpg", ".png", ".tiff", ".webp", ".bmp")
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_altered_files_give_an_image_or_a_reason(suffix: str, data: st.DataObject) -> None:
    file = bytearray(FILES[suffix])
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=6)):
        file[place] = data.draw(st.integers(0, 255))
    cut = file[: data.draw(st.integers(1, len(file)))] if data.draw(st.booleans()) else file
    try:
        result = to_rgb(CompressedImage(format=suffix[1:], data=array("B", cut)))
    except ImageError:
        return
    assert result.ndim == 3 and result.dtype == np.uint8
    assert suffix != ".png" or np.array_equal(result, picture(48, 32))


def test_nothing_is_written_for_damaged_images(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        for suffix, file in FILES.items():
            altered = bytearray(file)
            for place in rng.integers(20, len(file), 5):
                altered[place] ^= 0x55
            with suppress(ImageError):
                to_rgb(CompressedImage(format=suffix[1:], data=array("B", altered)))
    written = capfd.readouterr()
    assert written.err == written.out == ""


def jpeg_message(file: bytes) -> Any:
    return CompressedImage(format="jpeg", data=array("B", file))


def test_a_camera_that_always_pads_learns_of_the_parameter() -> None:
    whole = jpeg_corpora.whole("plain")
    padded = jpeg_message(whole[:-2] + bytes(200) + whole[-2:])
    notes: list[str] = []
    reader = ImageReader(notes.append)
    said = []
    for _ in range(RECENT):
        with pytest.raises(ImageError) as caught:
            reader.read(padded, ImageOptions())
        said.append("jpeg_padding:=accept" in reader.explain(caught.value))
    assert not said[0] and said[-1] and len(notes) == 1
    for _ in range(3):
        reader.read(padded, ImageOptions(jpeg_padding=ACCEPT))
    assert reader.padded == 3 and len(notes) == 2


def test_a_hole_now_and_then_is_not_called_padding() -> None:
    whole = jpeg_corpora.whole("plain")
    good, holed = jpeg_message(whole), jpeg_message(whole[:-2] + bytes(200) + whole[-2:])
    reader = ImageReader()
    for _ in range(RECENT):
        reader.read(good, ImageOptions())
        with pytest.raises(ImageError) as caught:
            reader.read(holed, ImageOptions())
        assert "jpeg_padding" not in reader.explain(caught.value)


@pytest.mark.parametrize("given", [{"jpeg_padding": "yes"}, {"image_bits": 7}, {"image_bits": 17}])
def test_options_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        ImageOptions(**given)
