# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of captioned images: any folder of them, and the road world."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.captions_file import CAPTIONS_FILE, read_captions
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.datasets.sample import Caption
from vlm_perception.evaluation.folder_images import FolderImages, plain_name
from vlm_perception.media.image_folder import list_images


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its captions."""

    name: str
    digest: str
    """Of what the image holds."""
    captions: tuple[Caption, ...]
    read: Callable[[], NDArray[np.uint8]]
    """Gives its pixels, RGB [height, width, 3]."""


class CaptionedSet(Protocol):
    """Captioned images in a fixed order."""

    def __len__(self) -> int:
        """Number of images."""

    def __iter__(self) -> Iterator[CaptionedImage]:
        """One after the other."""

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Take note that an image cannot be encoded, or raise the error."""

    def described(self) -> dict[str, str]:
        """Name, version (a digest of the data) and split, once it was gone through."""

    def notes(self) -> list[str]:
        """What is not in the set, a sentence each."""


class CaptionedFolder:
    """The images that a folder's captions.jsonl names."""

    def __init__(self, folder: Path, *, skip_broken: bool) -> None:
        """Read all captions, and try every image.

        Raises:
            CaptionsError: the captions are missing or damaged.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        self._captions: dict[str, list[Caption]] = {}
        for name, captions in read_captions(folder / CAPTIONS_FILE):
            self._captions.setdefault(plain_name(name), []).extend(captions)
        self._images = FolderImages(folder, self._captions, skip_broken=skip_broken)

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self._images.names)

    def __iter__(self) -> Iterator[CaptionedImage]:
        """The images that can be read, in the order of the captions."""
        for name, digest in list(self._images.digests.items()):
            captions = tuple(self._captions[name])
            yield CaptionedImage(name, digest, captions, partial(self._images.read, name))

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Leave an image out that broke after it was tried; see FolderImages."""
        self._images.leave_out(name, str(error))

    def described(self) -> dict[str, str]:
        """The folder's name; the version covers captions and images."""
        return self._images.described(self._images.folder / CAPTIONS_FILE)

    def notes(self) -> list[str]:
        """What is missing or broken, and how many images have no captions."""
        folder = self._images.folder
        there = {str(path.relative_to(folder)) for path in list_images(folder, deep=True)}
        rest = len(there - self._captions.keys())
        told = f"{rest} images of {folder} have no captions and are not in the pool"
        return [*filter(None, [self._images.told()]), *([told] if rest else [])]


class CaptionedStreets:
    """Streets of the road world, with four wordings each."""

    def __init__(self, seeds: range) -> None:
        """Render nothing yet."""
        self._seeds, self._streets = seeds, Streets(seeds)
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        """Number of streets."""
        return len(self._streets)

    def __iter__(self) -> Iterator[CaptionedImage]:
        """Render one after the other."""
        self._digest = hashlib.sha256()
        for street in self._streets:
            pixels = hashlib.sha256(street.image.tobytes()).hexdigest()
            self._digest.update(f"{pixels} {street.captions}\n".encode())
            image = partial(np.asarray, street.image)
            yield CaptionedImage(street.provenance, pixels, street.captions, image)

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Raise the error: a rendered image is never broken."""
        raise error

    def described(self) -> dict[str, str]:
        """The seeds are the split."""
        return {
            "name": "road world",
            "version": self._digest.hexdigest(),
            "split": f"seeds {self._seeds[0]} to {self._seeds[-1]}",
        }

    def notes(self) -> list[str]:
        """None."""
        return []
