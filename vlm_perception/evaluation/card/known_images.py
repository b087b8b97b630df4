# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images with labels and true answers: any folder of them, and the road world."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.answered_images import ANSWERS_FILE, read_answers
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE, read_objects
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS, Streets
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.folder_images import FolderImages, plain_name


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


class KnownSet(Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> Sequence[str]:
        """Every label that any image may have; empty: none is labelled."""

    @property
    def questions(self) -> Sequence[QuestionSpec]:
        """Questions that some image answers."""

    def __len__(self) -> int:
        """Number of images."""

    def __iter__(self) -> Iterator[KnownImage]:
        """One after the other."""

    @property
    def name(self) -> str:
        """Of the set."""

    @property
    def split(self) -> str:
        """Which part of it."""

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Take note that an image cannot be used, or raise the error."""

    @property
    def notes(self) -> Sequence[str]:
        """What is left out, a sentence each."""

    @property
    def broken(self) -> Sequence[str]:
        """The names of the images that are left out."""


class KnownFolder:
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
        objects, answers = folder / OBJECTS_FILE, folder / ANSWERS_FILE
        self._files = [file for file in (objects, answers) if file.exists()]
        if answers.exists():
            for _, name, given in read_answers(answers, questions):
                self._answers.setdefault(plain_name(name), {}).update(given)
        if objects.exists() or not answers.exists():
            self._labels = {plain_name(name): labels for name, labels in read_objects(objects)}
        self._images = FolderImages(
            folder, [*self._labels, *self._answers], skip_broken=skip_broken
        )
        known = {name for given in self._answers.values() for name in given}
        self.questions = tuple(each for each in questions if each.name in known)
        self.labels = tuple(sorted({label for each in self._labels.values() for label in each}))
        self.name = folder.resolve().name
        self.split = " and ".join(file.name for file in self._files)

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self._images.names)

    def __iter__(self) -> Iterator[KnownImage]:
        """The images that can be read, in the order of the files."""
        told = " ".join(map(file_sha256, self._files))
        for name, digest in list(self._images.digests.items()):
            yield KnownImage(
                name,
                hashlib.sha256(f"{digest} {told}".encode()).hexdigest(),
                lambda name=name: self._images.read(name),  # type: ignore[misc]
                self._labels.get(name),
                self._answers.get(name, {}),
            )

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Leave an image out that broke after it was tried; see FolderImages."""
        self._images.leave_out(name, str(error))

    @property
    def notes(self) -> Sequence[str]:
        """Which images are missing or broken."""
        told = self._images.told()
        return [told] if told else []

    @property
    def broken(self) -> Sequence[str]:
        """Those that are missing or broken."""
        return list(self._images.broken)


class KnownStreets:
    """Streets of the road world."""

    name = "road world"
    labels: Sequence[str] = LABELS
    notes: Sequence[str] = ()
    broken: Sequence[str] = ()

    def __init__(self, seeds: range, questions: Sequence[QuestionSpec]) -> None:
        """Render nothing yet.

        Args:
            seeds: one a street.
            questions: the bundle's own, which are asked where the road world can answer them.
        """
        self._streets = Streets(seeds)
        self.split = f"seeds {seeds[0]} to {seeds[-1]}"
        own = {(each.name, each.choices): each for each in questions}
        self.questions = tuple(own.get((each.name, each.choices), each) for each in TYPED_QUESTIONS)

    def leave_out(self, name: str, error: VlmPerceptionError) -> None:
        """Raise the error: a rendered image is never broken."""
        raise error

    def __len__(self) -> int:
        """Number of streets."""
        return len(self._streets)

    def __iter__(self) -> Iterator[KnownImage]:
        """Render one after the other."""
        for street in self._streets:
            digest = hashlib.sha256(street.image.tobytes())
            digest.update(repr((street.labels, sorted(street.answers.items()))).encode())
            yield KnownImage(
                street.provenance,
                digest.hexdigest(),
                lambda image=street.image: image,  # type: ignore[misc]
                street.labels,
                street.answers,
            )
