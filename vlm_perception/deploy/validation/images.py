# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of images: some to calibrate with, others to validate with, never the same."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.export_error import ExportError
from vlm_perception.media import image_folder
from vlm_perception.media.image_errors import ImageError

LEAST = 200
"""Images that a calibration and a validation need at least, each."""
MOST = 256
"""More of them cost time and change nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSets:
    """Images by what they are for; no two of them have the same pixels."""

    calibration: tuple[Path, ...]
    validation: tuple[Path, ...]
    skipped: int
    """Files that could not be read, each named in the log."""
    duplicates: int


def split_images(folder: Path, *, least: int = LEAST, most: int = MOST) -> ImageSets:
    """Split a folder, subfolders included, in halves by the hash of each image's pixels.

    The hash decides alone which half an image goes to, so that the same image is never in both,
    whatever the folder is called and whatever else it holds.

    Raises:
        ExportError: there is no such folder, or too few of its images can be read.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder} is not a folder; give one with {2 * least} images or more")
    halves: tuple[list[Path], list[Path]] = ([], [])
    seen: set[bytes] = set()
    skipped = duplicates = 0
    for path in image_folder.list_images(folder, deep=True):
        if all(len(half) >= most for half in halves):
            break
        try:
            digest = hashlib.sha256(read_image(path).tobytes()).digest()
        except ExportError as error:
            skipped += 1
            _log.warning("%s; it is skipped", error)
            continue
        if digest in seen:
            duplicates += 1
            continue
        seen.add(digest)
        halves[digest[0] % 2].append(path)
    calibration, validation = (tuple(half[:most]) for half in halves)
    if min(len(calibration), len(validation)) < least:
        raise ExportError(
            f"{folder} has {len(calibration)} images for calibration and {len(validation)} for "
            f"validation ({skipped} could not be read, {duplicates} are duplicates); {least} of "
            f"each are needed: put about {3 * least} different images there"
        )
    return ImageSets(calibration, validation, skipped, duplicates)


def images_digest(images: Sequence[Path]) -> str:
    """Hash over the pixels of images, in their order."""
    whole = hashlib.sha256()
    for path in images:
        whole.update(hashlib.sha256(read_image(path).tobytes()).digest())
    return whole.hexdigest()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image file upright, by its EXIF orientation: RGB [height, width, 3].

    Raises:
        ExportError: it is damaged or no image.
    """
    try:
        return image_folder.read_image(path)
    except ImageError as error:
        raise ExportError(str(error)) from error
