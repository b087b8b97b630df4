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

from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.datasets.sample import Caption
from vlm_perception.evaluation.folder_images import FolderImages, plain_name
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.image_sets import FolderSet, ImageSet, StreetSet


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its captions."""

    name: str
    digest: str
    """Of what the image holds."""
    captions: tuple[Caption, ...]
    read: Callable[[], NDArray[np.uint8]]
    """Gives its pixels, RGB [height, width, 3]."""


class CaptionedSet(ImageSet, Protocol):
    """Captioned images in a fixed order."""

    def __iter__(self) -> Iterator[CaptionedImage]:
        """One after the other."""


class CaptionedFolder(FolderSet):
    """The images that a folder's captions.jsonl names."""

    def __init__(self, folder: Path, *, skip_broken: bool) -> None:
        """Read all captions, and try every image.

        Raises:
            CaptionsError: the captions are missing or damaged.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        data = open_data(folder)
        self._captions: dict[str, list[Caption]] = {}
        for name, captions in data.captions():
            self._captions.setdefault(plain_name(name), []).extend(captions)
        super().__init__(FolderImages(data, self._captions, skip_broken=skip_broken), CAPTIONS_FILE)

    def __iter__(self) -> Iterator[CaptionedImage]:
        """The images that can be read, in the order of the captions."""
        for name, digest in list(self._images.digests.items()):
            captions = tuple(self._captions[name])
            yield CaptionedImage(name, digest, captions, partial(self._images.read, name))

    def notes(self) -> list[str]:
        """What is missing or broken, and how many images have no captions."""
        data = self._images.data
        rest = len(set(data.all_images()) - self._captions.keys())
        told = f"{rest} images of {data.path} have no captions and are not in the pool"
        return [*super().notes(), *([told] if rest else [])]


class CaptionedStreets(StreetSet):
    """Streets of the road world, with four wordings each."""

    def __iter__(self) -> Iterator[CaptionedImage]:
        """Render one after the other."""
        for street in self._rendered():
            pixels = hashlib.sha256(street.image.tobytes()).hexdigest()
            self._digest.update(f"{street.captions}\n".encode())
            image = partial(np.asarray, street.image)
            yield CaptionedImage(street.provenance, pixels, street.captions, image)
