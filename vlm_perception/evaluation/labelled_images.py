# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Sets of images of which it is known what can be seen: any labelled folder, and the road world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.labelled_objects import OBJECTS_FILE
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS
from vlm_perception.evaluation.folder_images import FolderImages, plain_name
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.image_sets import FolderSet, ImageSet, StreetSet


@dataclass(frozen=True)
class LabelledImage:
    """An image and the labels of all that can be seen in it."""

    name: str
    objects: tuple[str, ...]
    read: Callable[[], NDArray[np.uint8]]
    """Gives its pixels, RGB [height, width, 3]."""


class LabelledSet(ImageSet, Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels: what is not said to be in an image is not in it."""

    def __iter__(self) -> Iterator[LabelledImage]:
        """One after the other."""


class LabelledFolder(FolderSet):
    """The images that a folder's objects.jsonl names."""

    def __init__(self, folder: Path, *, skip_broken: bool) -> None:
        """Read all labels, and try every image.

        Raises:
            ObjectsError: the labels are missing or damaged, or there is none.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        data = open_data(folder)
        self._objects = {plain_name(name): seen for name, seen in data.objects()}
        super().__init__(FolderImages(data, self._objects, skip_broken=skip_broken), OBJECTS_FILE)
        self.labels = tuple(
            dict.fromkeys(label for seen in self._objects.values() for label in seen)
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        """The images that can be read, in the order of the labels."""
        for name in list(self._images.names):
            yield LabelledImage(name, self._objects[name], partial(self._images.read, name))


class LabelledStreets(StreetSet):
    """Streets of the road world; weather and daylight are no objects."""

    labels = OBJECT_LABELS

    def __iter__(self) -> Iterator[LabelledImage]:
        """Render one after the other."""
        for street in self._rendered():
            seen = tuple(label for label in street.labels if label in OBJECT_LABELS)
            self._digest.update(f"{seen}\n".encode())
            yield LabelledImage(street.provenance, seen, partial(np.asarray, street.image))
