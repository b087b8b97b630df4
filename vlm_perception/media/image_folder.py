# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Image files and folders of them: which count, in what order, and how each is read."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.media.image_errors import MAX_PIXELS, ImageError
from vlm_perception.media.image_message import to_rgb
from vlm_perception.media.media import ImageFile, Media, MediaError, Picture

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MOST_BYTES = 8 * MAX_PIXELS
"""Of a file: what the largest image takes without compression, at 16 bits and with alpha."""

_ORIENTATION = 0x0112
_TURNED_BY_OPENCV = "TIFF"
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(np.swapaxes(pixels, 0, 1), 2),
    8: np.rot90,
}
"""By the value of EXIF's tag: how the pixels become upright."""


def list_images(folder: Path, *, deep: bool = False) -> list[Path]:
    """Image files in the order in which people count: frame2 before frame10.

    Hidden files are passed over; so are the ._ files of macOS, which only look like images.

    Args:
        folder: Where to look.
        deep: Whether in its subfolders, too.

    Raises:
        MediaError: The folder cannot be listed.
    """
    try:
        found: Iterable[Path] = folder.rglob("*") if deep else folder.iterdir()
        images = [file for file in found if _is_image(file.relative_to(folder)) and file.is_file()]
    except OSError as error:
        raise MediaError(f"{folder} cannot be listed: {error.strerror}") from error
    return sorted(images, key=lambda file: _natural(file.relative_to(folder)))


def _is_image(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return name.suffix.lower() in SUFFIXES and not hidden


def _natural(name: Path) -> tuple[list[list[Any]], str]:
    """Sort key in which digits count as numbers; equal numbers are ordered by the whole name."""
    split = [re.split(r"([0-9]+)", part.casefold()) for part in name.parts]
    return [[int(x) if i % 2 else x for i, x in enumerate(part)] for part in split], str(name)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file upright, by its EXIF orientation.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        ImageError: It is damaged, too large or no image; the text begins with its path.
    """
    return decode_file(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """What an image file holds.

    Raises:
        ImageError: It cannot be read, is too large, or empty; the text begins with its path.
    """
    try:
        with open_ordinary(path) as stream:
            file = stream.read(MOST_BYTES + 1)
    except OSError as error:
        why = error.strerror or error
        raise ImageError("unreadable", f"{path} cannot be read: {why}") from error
    if len(file) > MOST_BYTES:
        raise ImageError("bad_size", f"{path} has more than {MOST_BYTES} bytes; store it smaller")
    if not file:
        raise ImageError("bad_data_length", f"{path} is empty: replace or remove it")
    return file


def decode_file(path: Path, file: bytes) -> NDArray[np.uint8]:
    """The image that a file holds, upright, as of `read_image`.

    Args:
        path: Of the file, for the text of an error.
        file: Its bytes.

    Raises:
        ImageError: It is damaged, too large or no image; the text begins with its path.
    """
    try:
        pixels = to_rgb(ImageFile(file))
    except ImageError as error:
        raise ImageError(error.kind, f"{path} cannot be used: {error}") from error
    turn = _UPRIGHT.get(_orientation(file))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _orientation(file: bytes) -> int:
    """The EXIF orientation; 1 if it is missing or unreadable."""
    try:
        with PIL.Image.open(io.BytesIO(file)) as image:
            found = 1 if image.format == _TURNED_BY_OPENCV else image.getexif().get(_ORIENTATION, 1)
    # Pillow raises nearly anything for a damaged EXIF part; the pixels are good without it.
    except Exception:
        return 1
    return found if isinstance(found, int) else 1


class ImageFolder(Media):
    """Image files, one after the other."""

    def __init__(self, path: Path) -> None:
        """List the images of a folder, or take a single file.

        Raises:
            MediaError: There are none, or none can be read.
        """
        self.name = str(path)
        self._files = list_images(path) if path.is_dir() else [path]
        if not self._files:
            raise MediaError(_why_none(path))
        pictures = list(self._until_first_good())
        if pictures[-1].fault:
            raise MediaError(
                f"no image of {path} can be read ({len(pictures)} tried); the first: "
                f"{pictures[0].fault_text}"
            )

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._files)

    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on; each that cannot be read is named."""
        return map(_read, self._files)

    def _until_first_good(self) -> Iterator[Picture]:
        for picture in self.pictures():
            yield picture
            if not picture.fault:
                return


def _read(file: Path) -> Picture:
    try:
        pixels = cv2.cvtColor(read_image(file), cv2.COLOR_RGB2BGR)
    except ImageError as error:
        return Picture(fault=error.kind, fault_text=str(error))
    return Picture(pixels=np.asarray(pixels, dtype=np.uint8))


def _why_none(folder: Path) -> str:
    for file in folder.glob("*/*"):
        if _is_image(file.relative_to(folder)):
            return (
                f"{folder} contains images only in its subfolders; give one of them: {file.parent}"
            )
    return f"{folder} contains no images; give a folder with {', '.join(sorted(SUFFIXES))}"
