# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Image and CompressedImage messages to RGB pixels.

Every claim of a message is checked first. The colours are converted by cv_bridge where it is
installed and knows the encoding, and by OpenCV elsewhere. cv_bridge is given tightly packed rows of
8 bits: 3.4.0 reads padded rows wrongly when the step is no multiple of the pixel size, and fails on
big-endian images under numpy 2.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vlm_perception.media.image_errors import (
    DamagedImageError,
    ImageError,
    check_size,
)
from vlm_perception.media.image_format import Format, codec_of
from vlm_perception.media.jpeg import START as JPEG_START
from vlm_perception.media.jpeg import decode_jpeg, read_header
from vlm_perception.media.png import START as PNG_START
from vlm_perception.media.png import decode_png

Pixels = NDArray[np.uint8]

OTHER_FILES = ("BMP", "TIFF", "WEBP")
"""What is read besides JPEG and PNG, as the image library names it."""
PADDING = REFUSE, ACCEPT = ("refuse", "accept")
LEAST_BITS = 8
MAX_PIXELS_OF_OTHERS = 4096 * 2160
"""Most pixels of such a file: more take too long to decode."""


@dataclass(frozen=True)
class Encoding:
    """How an encoding stores pixels."""

    code: int | None
    """OpenCV's conversion to RGB; None: nothing is to be converted, or OpenCV has none."""
    channels: int = 1
    """Values a pixel in a row."""
    bits: int = 8
    chroma: float = 0.0
    """Rows of the chroma plane after the luma rows, as a share of these."""
    multiple: tuple[int, int] = (1, 1)
    """Width and height must be multiples of these: the pixels that share a colour."""
    least: int = 1
    """Least width and height."""
    bridge: str = ""
    """What cv_bridge calls it; empty: not all versions know it."""

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Type of a value."""
        return np.uint16 if self.bits == 16 else np.uint8


def _colours(bits: int) -> dict[str, Encoding]:
    return {
        f"rgb{bits}": Encoding(None, 3, bits),
        f"bgr{bits}": Encoding(cv2.COLOR_BGR2RGB, 3, bits, bridge="bgr8"),
        f"rgba{bits}": Encoding(cv2.COLOR_RGBA2RGB, 4, bits, bridge="rgba8"),
        f"bgra{bits}": Encoding(cv2.COLOR_BGRA2RGB, 4, bits, bridge="bgra8"),
        f"mono{bits}": Encoding(cv2.COLOR_GRAY2RGB, 1, bits, bridge="mono8"),
        # OpenCV names a pattern by its second row.
        f"bayer_rggb{bits}": Encoding(
            cv2.COLOR_BayerBG2RGB, 1, bits, least=3, bridge="bayer_rggb8"
        ),
        f"bayer_bggr{bits}": Encoding(
            cv2.COLOR_BayerRG2RGB, 1, bits, least=3, bridge="bayer_bggr8"
        ),
        f"bayer_gbrg{bits}": Encoding(
            cv2.COLOR_BayerGR2RGB, 1, bits, least=3, bridge="bayer_gbrg8"
        ),
        f"bayer_grbg{bits}": Encoding(
            cv2.COLOR_BayerGB2RGB, 1, bits, least=3, bridge="bayer_grbg8"
        ),
    }


_UYVY = Encoding(cv2.COLOR_YUV2RGB_UYVY, 2, multiple=(2, 1), bridge="yuv422")
_YUYV = Encoding(cv2.COLOR_YUV2RGB_YUY2, 2, multiple=(2, 1))

ENCODINGS: dict[str, Encoding] = {
    **_colours(8),
    **_colours(16),
    "8UC1": Encoding(cv2.COLOR_GRAY2RGB, bridge="mono8"),
    "8UC3": Encoding(cv2.COLOR_BGR2RGB, 3, bridge="bgr8"),
    "8UC4": Encoding(cv2.COLOR_BGRA2RGB, 4, bridge="bgra8"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "yuy2": _YUYV,
    "nv12": Encoding(cv2.COLOR_YUV2RGB_NV12, chroma=0.5, multiple=(2, 2)),
    "nv21": Encoding(cv2.COLOR_YUV2RGB_NV21, chroma=0.5, multiple=(2, 2)),
    "nv24": Encoding(None, chroma=2.0),
}


@dataclass(frozen=True)
class ImageOptions:
    """How to read images that do not describe themselves completely."""

    jpeg_padding: str = REFUSE
    """Whether a JPEG may have meaningless bytes before its end: REFUSE or ACCEPT."""
    image_bits: int = 16
    """How many bits of the values of 16-bit images the camera uses, from the lowest on."""

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            ValueError: it is out of range.
        """
        if self.jpeg_padding not in PADDING:
            raise ValueError(f"jpeg_padding is {self.jpeg_padding!r}; give {' or '.join(PADDING)}")
        if not LEAST_BITS <= self.image_bits <= 16:
            raise ValueError(f"image_bits is {self.image_bits}; give {LEAST_BITS} to 16")


@dataclass(frozen=True)
class RgbImage:
    """The pixels of a message, and a note about them."""

    pixels: Pixels
    """uint8 [height, width, 3], C-contiguous unless a view was asked for; it may share memory with
    the message."""
    padded: bool = False
    """Whether it is a JPEG in which bytes that mean nothing were passed over."""
    highest: int | None = None
    """The highest value in an image of 16 bits."""


def to_rgb(message: Any) -> Pixels:
    """The pixels of a sensor_msgs Image or CompressedImage; see `convert`."""
    return convert(message).pixels


def convert(
    message: Any, options: ImageOptions = ImageOptions(), *, view: bool = False
) -> RgbImage:
    """Convert a sensor_msgs Image or CompressedImage to RGB.

    Args:
        message: the message.
        options: how to read what it does not specify.
        view: whether BGR may become a reversed view of the message, for who swaps the channels when
            there are fewer pixels.

    Raises:
        ImageError: The message is empty, damaged, of unknown encoding, or contradicts itself.
    """
    if hasattr(message, "format"):
        return _of_file(message, options)
    return _of_image(message, options, view)


def encoding_of(name: str) -> Encoding | None:
    """What is known of an encoding; drivers write YUYV and NV12 in either case."""
    return ENCODINGS.get(name) or ENCODINGS.get(name.lower())


def _of_image(message: Any, options: ImageOptions, view: bool) -> RgbImage:
    encoding = encoding_of(message.encoding)
    if encoding is None:
        raise ImageError(
            "bad_encoding",
            f"its encoding {message.encoding!r} is unknown; publish rgb8, bgr8, mono8, yuv422, "
            "nv12 or bayer (8 or 16 bit), or convert it with image_proc",
        )
    values = _values(message, encoding)
    if encoding.bits == 16 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        values = values.byteswap()
    if view and encoding.code == cv2.COLOR_BGR2RGB and encoding.bits == 8:
        return RgbImage(values.reshape(len(values), -1, 3)[..., ::-1])
    return _coloured(values, encoding, options)


def _values(message: Any, encoding: Encoding) -> NDArray[Any]:
    """The values of an Image, [rows, width x channels], the chroma rows after the others."""
    height, width = int(message.height), int(message.width)
    check_size(width, height)
    _check_fit(message.encoding, encoding, width, height)
    row, step = width * encoding.channels * encoding.bits // 8, int(message.step)
    data = np.frombuffer(message.data, dtype=np.uint8)
    _check_no_jpeg(message, data)
    if step < row:
        raise ImageError(
            "bad_step",
            f"its step is {step} bytes, but {width} pixels of {message.encoding} take {row}; the "
            "driver must set step to the number of bytes per row",
        )
    rows = height + int(height * encoding.chroma)
    # A row of colours of nv24 is two rows long, and so is what fills it up.
    wide = 2 if encoding.chroma == 2.0 else 1
    if data.size not in (step * rows, step * rows - wide * (step - row)):
        raise ImageError(
            "bad_data_length",
            f"its data has {data.size} bytes, but {rows} rows of {step} bytes are {step * rows}; "
            "the driver must set data and step consistently",
        )
    if step != row:
        planes = [_tight(data, 0, height, row, step)]
        if encoding.chroma:
            lines = (rows - height) // wide
            planes.append(_tight(data, step * height, lines, wide * row, wide * step))
        data = np.concatenate(planes)
    return data.view(encoding.dtype).reshape(rows, -1)


def _tight(data: Pixels, start: int, rows: int, row: int, step: int) -> Pixels:
    """The rows without their padding, one after the other."""
    strided = np.lib.stride_tricks.as_strided(data[start:], (rows, row), (step, 1), writeable=False)
    return strided.reshape(-1)


def _check_fit(name: str, encoding: Encoding, width: int, height: int) -> None:
    across, down = encoding.multiple
    if width % across or height % down:
        raise ImageError(
            "bad_size",
            f"its size {width}x{height} is odd, but in {name} {across}x{down} pixels share a "
            "colour; send an even size",
        )
    if min(width, height) < encoding.least:
        raise ImageError(
            "bad_size", f"its size {width}x{height} is too small for {name}; send 3x3 or more"
        )


def _check_no_jpeg(message: Any, data: Pixels) -> None:
    """Refuse a JPEG that calls itself something else: as pixels it would be noise."""
    if data[: len(JPEG_START)].tobytes() != JPEG_START:
        return
    try:
        header = read_header(data.tobytes())
    except ImageError:
        return  # It only began like one.
    if (header.width, header.height) == (message.width, message.height) and not header.padded:
        raise ImageError(
            "bad_encoding",
            f"its data is a JPEG, although its encoding says {message.encoding}; publish it as a "
            "CompressedImage, or let the driver decode it (usb_cam: `pixel_format: mjpeg2rgb`)",
        )


def _coloured(values: NDArray[Any], encoding: Encoding, options: ImageOptions) -> RgbImage:
    """RGB of values as `_values` gives them."""
    highest = None
    if encoding.bits == 16:
        highest = int(values.max())
        values = _to_8_bits(values, options.image_bits)
    if encoding.channels > 1:
        values = values.reshape(len(values), -1, encoding.channels)
    if encoding.chroma == 2.0:
        values = _nv24(values)
    elif encoding.code is not None:
        values = _converted(values, encoding, encoding.code)
    return RgbImage(np.ascontiguousarray(values, dtype=np.uint8), highest=highest)


@dataclass(frozen=True)
class _Packed:
    """What cv_bridge reads of a sensor_msgs/Image."""

    encoding: str
    height: int
    width: int
    step: int
    data: Pixels
    is_bigendian: int = int(sys.byteorder == "big")


def _cv_bridge() -> Callable[[_Packed], Any] | None:
    """The conversion to RGB of cv_bridge, where it is installed."""
    try:
        from cv_bridge import CvBridge  # noqa: PLC0415 - only where there is one
    except (ImportError, AttributeError):  # AttributeError: built for another numpy
        return None
    return partial(CvBridge().imgmsg_to_cv2, desired_encoding="rgb8")


_BRIDGE = _cv_bridge()


def _converted(values: Pixels, encoding: Encoding, code: int) -> NDArray[Any]:
    """RGB of values of 8 bits, [rows, width] or [rows, width, channels]."""
    if _BRIDGE is None or not encoding.bridge:
        return cv2.cvtColor(values, code)
    height, width = values.shape[:2]
    step = width * encoding.channels
    return np.asarray(
        _BRIDGE(_Packed(encoding.bridge, height, width, step, values.reshape(-1))), np.uint8
    )


def _nv24(values: Pixels) -> Pixels:
    """RGB of luma followed by a plane with two chroma values for each pixel.

    OpenCV has no such conversion: each pixel becomes two of YUYV, which are alike.
    """
    height, width = len(values) // 3, values.shape[1]
    twice = np.empty((height, width, 4), np.uint8)
    twice[..., 0::2] = values[:height, :, None]
    twice[..., 1::2] = values[height:].reshape(height, width, 2)
    converted = cv2.cvtColor(twice.reshape(height, 2 * width, 2), cv2.COLOR_YUV2RGB_YUY2)
    return np.asarray(converted[:, ::2], np.uint8)


def _to_8_bits(values: NDArray[np.uint16], bits: int) -> Pixels:
    flat = np.ascontiguousarray(values).reshape(1, -1)
    scaled = cv2.convertScaleAbs(flat, alpha=255.0 / (2**bits - 1))
    return np.asarray(scaled, dtype=np.uint8).reshape(values.shape)


def _of_file(message: Any, options: ImageOptions) -> RgbImage:
    form, file = Format.parse(str(message.format)), bytes(message.data)
    _check_shows_colours(form, file)
    grey = padded = False
    pixels: NDArray[Any]
    if file.startswith(JPEG_START):
        jpeg = decode_jpeg(file, accept_padding=options.jpeg_padding == ACCEPT)
        grey, padded, pixels = jpeg.grey, jpeg.padded, jpeg.pixels
    elif file.startswith(PNG_START):
        png = decode_png(file)
        grey, pixels = png.grey, png.pixels
    else:
        pixels = _decode_other(file)
    name, wide = form.encoding.rstrip("0168"), pixels.dtype == np.uint16
    mosaic = grey and name.startswith("bayer_") and form.target in ("", form.encoding)
    if not wide and not mosaic:
        return RgbImage(np.asarray(pixels, dtype=np.uint8), padded)
    name = f"{name if mosaic else 'rgb'}{16 if wide else 8}"
    encoding = ENCODINGS.get(name)
    if encoding is None:
        raise ImageError(
            "bad_encoding",
            f"its format {form.text!r} is not a known Bayer pattern; send bayer_rggb8 or similar, "
            "or an RGB image",
        )
    height, width = pixels.shape[:2]
    _check_fit(name, encoding, width, height)
    values = pixels[..., 0] if mosaic else pixels.reshape(height, -1)
    return replace(_coloured(values, encoding, options), padded=padded)


def _check_shows_colours(form: Format, file: bytes) -> None:
    if not file:
        raise ImageError("bad_data_length", "its data is empty; the driver sent no image")
    if form.shows_depth:
        raise ImageError(
            "bad_format",
            f"its format {form.text!r} is not a colour format; subscribe to a colour camera",
        )
    codec = codec_of(form.text, file[:4])
    if codec:
        raise ImageError(
            "bad_format",
            f"it is a packet of an {codec} video, which cannot be decoded on its own; let the "
            "driver publish JPEG, or decode the video in a separate node",
        )


def _decode_other(file: bytes) -> NDArray[Any]:
    """RGB of a TIFF, WebP or the like, with 8 or 16 bits."""
    check_size(*_size_of(file), MAX_PIXELS_OF_OTHERS)
    # Its complaints of damaged files would go to stderr.
    logging: Any = cv2.utils.logging
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded: Any = cv2.imdecode(np.frombuffer(file, dtype=np.uint8), flags)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise DamagedImageError(
            "damaged",
            "its data is a damaged image; check the connection for data loss, or send JPEG or PNG",
        )
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ImageError("bad_format", "its pixel values are not colours; send JPEG or PNG")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _size_of(file: bytes) -> tuple[int, int]:
    """Width and height from the header of a TIFF, WebP or the like."""
    try:
        with PIL.Image.open(io.BytesIO(file), formats=OTHER_FILES) as image:
            return image.size
    except PIL.Image.DecompressionBombError as error:
        raise ImageError("bad_size", str(error)) from error
    # A damaged header raises nearly anything.
    except Exception as error:
        raise ImageError(
            "bad_format",
            f"its data ({len(file)} bytes) is not an image in a supported format: send JPEG or PNG",
        ) from error
