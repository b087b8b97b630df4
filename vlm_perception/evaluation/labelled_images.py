# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of images of which it is known what can be seen: any labelled folder, and the road world."""

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
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE, read_objects
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS
from vlm_perception.evaluation.folder_images import FolderImages, plain_name


@dataclass(frozen=True)
class LabelledImage:
    """An image and the labels of all that can be seen in it."""

    name: str
    objects: tuple[str, ...]
    read: Callable[[], NDArray[np.uint8]]
    """Gives its pixels, RGB [height, width, 3]."""


class LabelledSet(Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels: what is not said to be in an image is not in it."""

    def __len__(self) -> int:
        """Number of images."""

    def __iter__(self) -> Iterator[LabelledImage]:
        """One after the other."""

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Take note that an image cannot be used, or raise the error."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from other sets before any image is read."""

    def described(self) -> dict[str, str]:
        """Name, version (a digest of the data) and split, once it was gone through."""

    def notes(self) -> list[str]:
        """What is not in the set, a sentence each."""


class LabelledFolder:
    """The images that a folder's objects.jsonl names."""

    def __init__(self, folder: Path, *, skip_broken: bool) -> None:
        """Read all labels, and try every image.

        Raises:
            ObjectsError: the labels are missing or damaged, or there is none.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        self._objects = {
            plain_name(name): seen for name, seen in read_objects(folder / OBJECTS_FILE)
        }
        self._images = FolderImages(folder, self._objects, skip_broken=skip_broken)
        self.labels = tuple(
            dict.fromkeys(label for seen in self._objects.values() for label in seen)
        )

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self._images.names)

    def __iter__(self) -> Iterator[LabelledImage]:
        """The images that can be read, in the order of the labels."""
        for name in list(self._images.names):
            yield LabelledImage(name, self._objects[name], partial(self._images.read, name))

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Leave an image out that broke after it was tried; see FolderImages."""
        self._images.leave_out(name, str(error))

    @property
    def identity(self) -> dict[str, str]:
        """As `described`, before anything is left out."""
        return self.described()

    def described(self) -> dict[str, str]:
        """The folder's name; the version covers labels and images."""
        return self._images.described(self._images.folder / OBJECTS_FILE)

    def notes(self) -> list[str]:
        """What is missing or broken."""
        return [*filter(None, [self._images.told()])]


class LabelledStreets:
    """Streets of the road world; weather and daylight are no objects."""

    labels = OBJECT_LABELS

    def __init__(self, seeds: range) -> None:
        """Render nothing yet."""
        self._seeds, self._streets = seeds, Streets(seeds)
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        """Number of streets."""
        return len(self._streets)

    def __iter__(self) -> Iterator[LabelledImage]:
        """Render one after the other."""
        self._digest = hashlib.sha256()
        for street in self._streets:
            seen = tuple(label for label in street.labels if label in OBJECT_LABELS)
            self._digest.update(street.image.tobytes() + f"{seen}\n".encode())
            yield LabelledImage(street.provenance, seen, partial(np.asarray, street.image))

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Raise the error: a rendered image is never broken."""
        raise error

    def described(self) -> dict[str, str]:
        """The seeds are the split; the version covers the pixels and labels that were given."""
        return {**self.identity, "version": self._digest.hexdigest()}

    @property
    def identity(self) -> dict[str, str]:
        """Name and split."""
        split = f"seeds {self._seeds[0]} to {self._seeds[-1]}"
        return {"name": "road world", "split": split}

    def notes(self) -> list[str]:
        """None."""
        return []
