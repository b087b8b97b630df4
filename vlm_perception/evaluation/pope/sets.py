# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The questions that a bundle is asked, and their images: given, a folder, or the road world."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.truth import presence_question
from vlm_perception.evaluation.folder_images import FolderImages, plain_name
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.image_sets import FolderSet, ImageSet
from vlm_perception.evaluation.labelled_images import LabelledFolder, LabelledSet, LabelledStreets
from vlm_perception.evaluation.pope.questions import (
    EACH,
    PopeError,
    Question,
    as_json,
    build_questions,
    read_questions,
    worded,
)
from vlm_perception.evaluation.road_world import EXAM_SEED

Pictures = Iterable[tuple[str, Callable[[], NDArray[np.uint8]]]]
"""The name of each image, and what gives its pixels, RGB [height, width, 3]."""


@dataclass
class PopeSet:
    """Questions and what they are about."""

    name: str
    questions: Mapping[str, Sequence[Question]]
    """By set: random, popular, adversarial. Images have the names of `pictures`."""
    pictures: Callable[[], Pictures]
    """Goes through the images."""
    images: ImageSet
    origin: str
    """Where the questions come from, a sentence."""

    def leave_out(self, image: str, error: VlmPerceptionError) -> None:
        """Ask nothing about an image that broke after it was tried, or raise the error."""
        self.images.leave_out(image, error)
        self.questions = {
            split: [question for question in questions if question.image != image]
            for split, questions in self.questions.items()
        }
        for split, questions in self.questions.items():
            if not questions:
                raise PopeError(f"no question of the set {split} is left: all images are broken")

    def notes(self) -> list[str]:
        """Where the questions come from and which images are left out, a sentence each."""
        return [self.origin, *self.images.notes()]

    def versions(self) -> dict[str, str]:
        """Digest of the questions and the images of each set."""
        found = {}
        images = self.images.described()["version"]
        for split, questions in self.questions.items():
            digest = hashlib.sha256(images.encode())
            for question in questions:
                digest.update(json.dumps(as_json(question)).encode() + b"\n")
            found[split] = digest.hexdigest()
        return found


def given_questions(files: Mapping[str, Path], folder: Path, *, skip_broken: bool) -> PopeSet:
    """Published questions, with a folder of their images.

    Raises:
        PopeError: a file cannot be used.
        FolderImagesError: images are missing or broken, and not to be left out.
    """
    read = {split: read_questions(file) for split, file in files.items()}
    names = (question.image for questions in read.values() for question in questions)
    images = FolderImages(open_data(folder), names, skip_broken=skip_broken)
    kept = {
        split: [
            replace(question, image=plain_name(question.image))
            for question in questions
            if plain_name(question.image) in images.names
        ]
        for split, questions in read.items()
    }
    for split, questions in kept.items():
        if not questions:
            raise PopeError(f"no question of {files[split]} is left: all its images are broken")
    return PopeSet(
        name=", ".join(file.stem for file in files.values()),
        questions=kept,
        pictures=lambda: [(name, partial(images.read, name)) for name in images.names],
        images=FolderSet(images),
        origin=f"Questions of {', '.join(map(str, files.values()))}; images of {folder}",
    )


def labelled_folder(folder: Path, wording: str, *, skip_broken: bool) -> PopeSet:
    """Questions in such a wording, built from a folder's `objects.jsonl`.

    Raises:
        ObjectsError: the file cannot be used.
        PopeError: no question can be built.
        FolderImagesError: images are missing or broken, and not to be left out.
    """
    return _built(LabelledFolder(folder, skip_broken=skip_broken), partial(worded, wording))


def road_world(scenes: int) -> PopeSet:
    """Questions about objects in scenes that were not used in training, in the student's words.

    Raises:
        PopeError: no question can be built.
    """
    return _built(LabelledStreets(range(EXAM_SEED, EXAM_SEED + scenes)), presence_question)


def _built(images: LabelledSet, ask: Callable[[str], str]) -> PopeSet:
    looked = track(images, "Reading labels", total=len(images), transient=True)
    shown = [(image.name, image.objects) for image in looked]
    questions = build_questions(shown, images.labels, ask)
    asked = Counter(question.image for question in next(iter(questions.values())))
    full = sum(count == 2 * EACH for count in asked.values())
    told = (
        f"Built from {len(shown)} images: {full} of them asked {EACH} + {EACH} questions a set, "
        f"{len(asked) - full} fewer, {len(shown) - len(asked)} none"
    )
    return PopeSet(
        name=images.described()["name"],
        questions=questions,
        pictures=lambda: ((image.name, image.read) for image in images),
        images=images,
        origin=told,
    )
