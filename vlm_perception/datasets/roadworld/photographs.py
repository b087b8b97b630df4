# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Photographs of a folder, as small copies that are made once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.machine import cache_directory
from vlm_perception.media.image_folder import decode_file, list_images, read_bytes

_SIZE = (256, 144)
"""Of a copy: width and height in pixels."""


class PhotographsError(VlmPerceptionError):
    """A folder cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Photographs:
    """Small copies of a folder's images."""

    digest: str
    """Of the images' files."""
    file: Path
    """Keeps the copies."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB [n, h, w, 3], mapped."""
        return _mapped(self.file)


def open_photographs(folder: Path) -> Photographs:
    """Make the copies, unless the user's cache has them.

    Raises:
        PhotographsError: there is no such folder, it has no images, or one cannot be read.
        MediaError: the folder cannot be listed.
        ImageError: an image is broken.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise PhotographsError(f"{folder} {what}; photographs must be a folder of images")
    files = list_images(folder, deep=True)
    if not files:
        raise PhotographsError(f"{folder} has no images; photographs need at least one")
    digest = hashlib.sha256(str(_SIZE).encode())
    for each in files:
        try:
            digest.update(file_sha256(each).encode())
        except OSError as error:
            raise PhotographsError(f"{each} cannot be read: {error.strerror}") from error
    name = digest.hexdigest()[:16]
    kept = cache_directory() / "photographs" / f"{name}.npy"
    if not kept.exists():
        copies = np.stack([_copy(each) for each in files])
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{os.getpid()}-{kept.name}")
        with part.open("wb") as stream:
            np.save(stream, copies)
        part.replace(kept)
    return Photographs(name, kept)


def _copy(file: Path) -> NDArray[np.uint8]:
    """The middle of an image, in the shape of all copies."""
    pixels = decode_file(file, read_bytes(file))
    height, width = pixels.shape[:2]
    wide, tall = _SIZE
    scale = min(width / wide, height / tall)
    w, h = max(1, round(wide * scale)), max(1, round(tall * scale))
    y, x = (height - h) // 2, (width - w) // 2
    part = np.ascontiguousarray(pixels[y : y + h, x : x + w])
    return np.asarray(cv2.resize(part, _SIZE, interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=4)
def _mapped(file: Path) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return pixels
