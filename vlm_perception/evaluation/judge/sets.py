# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images to be described or asked about: any folder of them, and the road world."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.captions_file import UNKNOWN
from vlm_perception.datasets.questions_file import QUESTIONS_FILE, Question, read_questions
from vlm_perception.evaluation.folder_images import FolderImages, FolderImagesError, plain_name
from vlm_perception.evaluation.image_data import ImageData, open_data
from vlm_perception.evaluation.image_sets import FolderSet, ImageSet, StreetSet


@dataclass(frozen=True)
class Asked:
    """A question about an image."""

    image: str
    question: str
    """Empty: it is to be described."""
    language: str
    read: Callable[[], NDArray[np.uint8]]
    """Gives the pixels, RGB [height, width, 3]."""

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return question_key(self.image, self.question, self.language)


def question_key(image: str, question: str, language: str) -> str:
    """What tells a question about an image from all others of a set."""
    return json.dumps([image, question, language], ensure_ascii=False)


class AskedSet(ImageSet, Protocol):
    """Questions about images in a fixed order; its length is their number."""

    @property
    def questions(self) -> Sequence[str]:
        """All different ones."""

    def __iter__(self) -> Iterator[Asked]:
        """One after the other."""


class AskedFolder(FolderSet):
    """The questions of a folder's questions.jsonl; without that file each image is described."""

    def __init__(self, folder: Path, *, skip_broken: bool) -> None:
        """Read all questions, and try every image.

        Raises:
            QuestionsError: the questions are damaged.
            MediaError: the folder cannot be listed.
            FolderImagesError: images are missing or broken and not to be left out.
        """
        data = open_data(folder)
        given = [QUESTIONS_FILE] if data.has(QUESTIONS_FILE) else []
        if given:
            read = read_questions(data.path / QUESTIONS_FILE)
            plain = (Question(plain_name(each.image), each.text, each.language) for each in read)
            asked = list(dict.fromkeys(plain))  # names may differ in spelling alone
        else:
            asked = [Question(name, "", UNKNOWN) for name in _every_image(data)]
        images = FolderImages(data, (each.image for each in asked), skip_broken=skip_broken)
        super().__init__(images, *given)
        self._all = asked
        self.questions = list(dict.fromkeys(each.text for each in self._asked()))

    def __len__(self) -> int:
        """Number of questions about images that can be read."""
        return len(self._asked())

    def __iter__(self) -> Iterator[Asked]:
        """The questions about images that can be read, in the order of the file."""
        for each in self._asked():
            read = partial(self._images.read, each.image)
            yield Asked(each.image, each.text, each.language, read)

    def _asked(self) -> list[Question]:
        return [each for each in self._all if each.image in self._images.names]


def _every_image(data: ImageData) -> list[str]:
    names = data.all_images()
    if not names and data.path.is_dir():
        raise FolderImagesError(f"{data.path} contains no images; give a folder with some")
    return names


class AskedStreets(StreetSet):
    """Streets of the road world, to be described in English."""

    questions = ("",)

    def __iter__(self) -> Iterator[Asked]:
        """Render one after the other."""
        for street in self._rendered():
            yield Asked(street.provenance, "", "en", partial(np.asarray, street.image))


def asked_set(data: Path | None, scenes: int, first_seed: int, *, skip_broken: bool) -> AskedSet:
    """A folder, or so many streets of the road world where there is none; as of AskedFolder."""
    if data is None:
        return AskedStreets(range(first_seed, first_seed + scenes))
    return AskedFolder(data, skip_broken=skip_broken)
