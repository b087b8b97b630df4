# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images with labels and true answers: any folder of them, and the road world."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.datasets.answered_images import ANSWERS_FILE, read_answers
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.folder_images import FolderImages, plain_name
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.image_sets import FolderSet, ImageSet, StreetSet


@dataclass(frozen=True)
class KnownImage:
    """An image, and what is known of it."""

    name: str
    version: str
    """Digest of what it holds."""
    read: Callable[[], NDArray[np.uint8]]
    """Gives its pixels, RGB [height, width, 3]."""
    labels: Sequence[str] | None
    """All that can be seen; None: nobody has said."""
    answers: Mapping[str, str]
    """True choices by the questions' names, of those that are known."""


class KnownSet(ImageSet, Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> Sequence[str]:
        """Every label that any image may have; empty: none is labelled."""

    @property
    def questions(self) -> Sequence[QuestionSpec]:
        """Questions that some image answers."""

    def __iter__(self) -> Iterator[KnownImage]:
        """One after the other."""


class KnownFolder(FolderSet):
    """The images that objects.jsonl and answers.jsonl of a folder name."""

    def __init__(
        self, folder: Path, questions: Sequence[QuestionSpec], *, skip_broken: bool = False
    ) -> None:
        """Read the labels and answers that there are, and try every image.

        Args:
            folder: with images and at least one of the two files.
            questions: that can be answered.
            skip_broken: leave out the images that are missing or broken.

        Raises:
            ObjectsError: objects.jsonl is missing or damaged, and there are no answers.
            AnswersError: answers.jsonl is damaged, or answers what nobody asks.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        self._labels: dict[str, Sequence[str]] = {}
        self._answers: dict[str, dict[str, str]] = {}
        data = open_data(folder)
        if data.has(ANSWERS_FILE):
            for _, name, given in read_answers(data.path / ANSWERS_FILE, questions):
                self._answers.setdefault(plain_name(name), {}).update(given)
        if data.has(OBJECTS_FILE) or not data.has(ANSWERS_FILE):
            self._labels = {plain_name(name): labels for name, labels in data.objects()}
        images = FolderImages(data, [*self._labels, *self._answers], skip_broken=skip_broken)
        super().__init__(images, *filter(data.has, (OBJECTS_FILE, ANSWERS_FILE)))
        known = {name for given in self._answers.values() for name in given}
        self.questions = tuple(each for each in questions if each.name in known)
        self.labels = tuple(sorted({label for each in self._labels.values() for label in each}))

    def __iter__(self) -> Iterator[KnownImage]:
        """The images that can be read, in the order of the files."""
        told = self._images.data.described("", self._files)["version"]
        for name, digest in list(self._images.digests.items()):
            yield KnownImage(
                name,
                hashlib.sha256(f"{digest} {told}".encode()).hexdigest(),
                partial(self._images.read, name),
                self._labels.get(name),
                self._answers.get(name, {}),
            )


class KnownStreets(StreetSet):
    """Streets of the road world."""

    labels: Sequence[str] = LABELS

    def __init__(self, seeds: range, questions: Sequence[QuestionSpec]) -> None:
        """Render nothing yet.

        Args:
            seeds: one a street.
            questions: the bundle's own, which are asked where the road world can answer them.
        """
        super().__init__(seeds)
        own = {(each.name, each.choices): each for each in questions}
        self.questions = tuple(own.get((each.name, each.choices), each) for each in TYPED_QUESTIONS)

    def __iter__(self) -> Iterator[KnownImage]:
        """Render one after the other."""
        for street in self._rendered():
            said = repr((street.labels, sorted(street.answers.items()))).encode()
            self._digest.update(said)
            yield KnownImage(
                street.provenance,
                hashlib.sha256(street.image.tobytes() + said).hexdigest(),
                partial(np.asarray, street.image),
                street.labels,
                street.answers,
            )
