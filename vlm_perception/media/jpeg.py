# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""JPEG files to pixels; damaged ones are refused, those of cheap cameras are not.

libjpeg continues after damage and leaves a warning. Decoded strictly, the first warning is an
error, and whatever carries one is damaged, except meaningless bytes before a marker: many cameras
pad with them, and the pixels do not change. Such an image is padded. As the first warning hides the
others, the segments between its restart markers are then checked one by one.

JPEG has no checksum: altered bytes that happen to be valid codes change pixels without a warning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from vlm_perception.media.image_errors import (
    DamagedImageError,
    ImageError,
    check_size,
    truncated,
)

START = b"\xff\xd8\xff"

MAX_SCANS = 32
"""A progressive image has about ten."""
MAX_WORK = 128_000_000
"""Most pixels x (scans + 4): the pixels themselves cost about what four scans do."""
MAX_SEGMENTS = 1000
"""Most parts of a header; a colour profile and a preview take some hundred at the very most."""
MAX_RESTART_PADDING = 16
"""Most bytes that mean nothing before a restart marker; more look like a hole."""
MAX_PIECES = 8192
"""Most pieces between restart markers that are looked at one by one."""
MAX_SIDE = 65_500
"""libjpeg's own limit for width and height."""

# Second bytes of markers (ITU T.81, table B.1).
_PROGRESSIVE = 0xC2
_FRAMES = frozenset({0xC0, 0xC1, _PROGRESSIVE})  # those in Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_RESTART, _START, _END, _SCAN, _INTERVAL = 0xD0, 0xD8, 0xD9, 0xDA, 0xDD

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")


@dataclass(frozen=True)
class DecodedJpeg:
    """A JPEG's pixels, and a note about it."""

    pixels: NDArray[np.uint8]
    """uint8 RGB [height, width, 3]"""
    grey: bool
    """Whether the file holds one channel only."""
    padded: bool
    """Whether bytes that mean nothing were passed over."""


@dataclass(frozen=True)
class JpegHeader:
    """The part before the first scan."""

    width: int
    height: int
    components: int
    unit: tuple[int, int]
    """Width and height in pixels of what is coded together (MCU) where a scan holds all."""
    restart_interval: int
    """So many units from one restart marker to the next; 0: there are none."""
    many_scans: bool
    """Whether more than one scan may follow."""
    data: int
    """Where the codes of the first scan begin."""
    clean: bytes
    """The header without bytes that mean nothing."""
    size_at: int
    """The offsets of height and width in it, 16 bits each."""
    padded: bool
    """Whether there were bytes that mean nothing."""

    @property
    def units(self) -> int:
        """How many units the image has."""
        return -(-self.width // self.unit[0]) * -(-self.height // self.unit[1])

    def of_row(self, units: int) -> bytes:
        """The header of an image that is one row of this many units."""
        width, height = units * self.unit[0], self.unit[1]
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        return self.clean[: self.size_at] + size + self.clean[self.size_at + len(size) :]


def decode_jpeg(file: bytes, *, accept_padding: bool = False) -> DecodedJpeg:
    """Decode a JPEG file as is: an EXIF orientation is not applied.

    Args:
        file: the whole file; bytes after its end do not matter.
        accept_padding: whether meaningless bytes are accepted before the end as well, where they
            look like missing data.

    Raises:
        DamagedImageError: a part of it is missing or altered.
        ImageError: it is no JPEG that can be read, or one that would take too long.
    """
    header = read_header(file)
    _check_work(header, file, MAX_WORK)
    if header.padded:
        cleaned = decode_jpeg(header.clean + file[header.data :], accept_padding=accept_padding)
        return replace(cleaned, padded=True)
    try:
        pixels = simplejpeg.decode_jpeg(file, "RGB")
    except ValueError as error:
        warning = str(error)
    else:
        return DecodedJpeg(pixels, header.components == 1, padded=False)
    _check_work(header, file, MAX_WORK // 2)  # It is decoded twice.
    _check_padding(file, header, warning, accept_padding)
    pixels = simplejpeg.decode_jpeg(file, "RGB", strict=False)
    return DecodedJpeg(pixels, header.components == 1, padded=True)


def read_header(file: bytes) -> JpegHeader:
    """Read the part before the first scan.

    Raises:
        DamagedImageError: it ends too early, or it has no image.
        ImageError: it is of a kind that cannot be decoded.
    """
    if not file.startswith(START):
        raise ImageError("bad_format", "its data is not a JPEG; send a baseline JPEG")
    position, clean, padded = 2, file[:2], False
    frame, progressive, size_at, interval = b"", False, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(file, position)
        if found is None:
            raise truncated(len(file))
        padded = padded or bool(file[position : found.start()].strip(b"\xff"))
        position, marker = found.end(), file[found.end() - 1]
        if marker in _ALONE:
            continue
        end = position + int.from_bytes(file[position : position + 2], "big")
        if end > len(file):
            raise truncated(len(file))
        if marker in (_START, _END) or end < position + 2:
            raise _damaged("its header is truncated")
        content = file[position + 2 : end]
        if marker in _OTHER_FRAMES:
            raise _unusual(f"of kind SOF{marker - 0xC0}")
        if marker in _FRAMES:
            frame, progressive, size_at = content, marker == _PROGRESSIVE, len(clean) + 5
        elif marker == _INTERVAL:
            interval = int.from_bytes(content[:2], "big")
        clean += file[found.start() : end]
        if marker == _SCAN:
            size, components, unit = _frame(frame)
            many = progressive or content[:1] != bytes([components])
            return JpegHeader(*size, components, unit, interval, many, end, clean, size_at, padded)
        position = end
    raise ImageError("bad_format", f"its JPEG header has more than {MAX_SEGMENTS} parts")


def _frame(frame: bytes) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """Width and height, the number of components, and width and height of a unit."""
    if len(frame) < 6 or len(frame) != 6 + 3 * frame[5]:
        raise _damaged("its header gives no size")
    components = frame[5]
    if frame[0] != 8 or components not in (1, 3, 4):
        raise _unusual(f"of {components} channels with {frame[0]} bits")
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    check_size(width, height)
    factors = frame[7::3] if components > 1 else b"\x11"
    across, down = 8 * max(each >> 4 for each in factors), 8 * max(each & 15 for each in factors)
    if not across or not down:
        raise _damaged("its header gives no sampling factors")
    return (width, height), components, (across, down)


def _check_work(header: JpegHeader, file: bytes, most: int) -> None:
    """Refuse a small file that would take long to decode."""
    scans = 1 + (file.count(b"\xff\xda", header.data) if header.many_scans else 0)
    if scans > MAX_SCANS:
        raise ImageError(
            "bad_size", f"its JPEG has more than {MAX_SCANS} scans; send a baseline JPEG"
        )
    if header.width * header.height * (scans + 4) > most:
        raise ImageError(
            "bad_size",
            f"its JPEG of {header.width}x{header.height} in {scans} scan(s) would take too long to "
            "decode; send smaller images",
        )


def _check_padding(file: bytes, header: JpegHeader, warning: str, accept: bool) -> None:
    """Refuse the image that libjpeg warned of, unless it is whole and only padded."""
    if warning.startswith("Premature end of JPEG file"):
        raise truncated(len(file))
    if "subsampling" in warning:
        raise _unusual("with an unsupported chroma subsampling")
    padding = _EXTRANEOUS.fullmatch(warning)
    pieces = _pieces(file, header) if padding else []
    if padding is None or not pieces:
        raise _damaged(warning)
    if int(padding[2], 16) == _END:  # so there was no warning of what comes before
        if not accept:
            raise _damaged(warning, only_padding=True)
        return
    if int(padding[1]) > MAX_RESTART_PADDING:
        raise _damaged(warning)
    *firsts, last = pieces
    for piece in firsts:
        if _padding_of(header, header.restart_interval, piece) > MAX_RESTART_PADDING:
            raise _damaged(warning)
    units = header.units - len(firsts) * header.restart_interval
    count = _padding_of(header, units, last)
    if count > MAX_RESTART_PADDING and not accept:
        raise _damaged(f"{count} extraneous bytes before its end", only_padding=True)


def _pieces(file: bytes, header: JpegHeader) -> list[bytes]:
    """The codes between restart markers; none where these are not just those demanded."""
    interval = header.restart_interval
    restarts = (header.units - 1) // interval if interval else 0
    if header.many_scans or restarts >= MAX_PIECES or interval * header.unit[0] > MAX_SIDE:
        return []
    found = list(islice(_MARKER.finditer(file, header.data), restarts + 1))
    demanded = [*(_RESTART + index % 8 for index in range(restarts)), _END]
    if [marker[0][1] for marker in found] != demanded:
        return []
    starts = [header.data, *(marker.end() for marker in found)]
    return [file[start : marker.start()] for start, marker in zip(starts, found, strict=False)]


def _padding_of(header: JpegHeader, units: int, codes: bytes) -> int:
    """How many meaningless bytes libjpeg finds after the codes of this many units.

    Raises:
        DamagedImageError: the codes are not those of this many units.
    """
    row = header.of_row(units) + codes + bytes([0xFF, _END])
    try:
        # At an eighth of the size: the codes are read in full, and pixels are not wanted.
        simplejpeg.decode_jpeg(row, "GRAY", min_height=1, min_width=1)
        return 0
    except ValueError as error:
        padding = _EXTRANEOUS.fullmatch(str(error))
        if padding is None:
            raise _damaged(str(error)) from error
        return int(padding[1])


def _damaged(why: str, *, only_padding: bool = False) -> DamagedImageError:
    return DamagedImageError(
        "damaged",
        f"its JPEG is damaged ({why}); check for a bad cable, a driver that reuses its buffers, or "
        "data loss in transit",
        only_padding=only_padding,
    )


def _unusual(what: str) -> ImageError:
    return ImageError(
        "bad_format",
        f"its JPEG is {what}, which is not supported; send a baseline JPEG with 8 bits",
    )
