# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of images, with true answers to typed questions beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.datasets.sample import Sample
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_folder import read_image

ANSWERS_FILE = "answers.jsonl"


class AnswersError(VlmPerceptionError):
    """A folder's answers are missing, damaged or foreign; the message says what and where."""


class AnsweredImages:
    """The images that `answers.jsonl` names, as a data set.

    Each line names an image of the folder and answers some questions:
    `{"image": "0001.jpg", "answers": {"weather": "rain"}}`.
    """

    def __init__(self, folder: Path, questions: Sequence[QuestionSpec]) -> None:
        """Read the answers, check them against the questions, and try every image.

        Raises:
            AnswersError: the file is missing or damaged, or names an image, a question or a choice
                that is not there.
        """
        self.file = folder / ANSWERS_FILE
        self.questions = questions
        self.broken: dict[Path, str] = {}
        """The images that cannot be read, and what is wrong with them."""
        answered = []
        for where, name, answers in read_answers(self.file, questions):
            if not (folder / name).is_file():
                raise AnswersError(f"{where}: there is no image {folder / name}")
            answered.append((folder / name, answers))
        for path in {path: None for path, _ in answered}:
            try:
                read_image(path)
            except ImageError as error:
                self.broken[path] = str(error)
        self._answered = [each for each in answered if each[0] not in self.broken]
        self.left_out = len(answered) - len(self._answered)
        """How many lines name such an image."""

    def counts(self) -> Counter[str]:
        """How many of the images answer each question, by its name."""
        return Counter(name for _, answers in self._answered for name in answers)

    def __len__(self) -> int:
        """How many images can be read."""
        return len(self._answered)

    def __iter__(self) -> Iterator[Sample]:
        """The images that can be read, in the order of the file."""
        for path, answers in self._answered:
            yield Sample(read_image(path), provenance=str(path), answers=answers)


def read_answers(
    file: Path, questions: Sequence[QuestionSpec]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The name of each image that is answered, its answers by question, and before them its place.

    Raises:
        AnswersError: the file is missing or damaged, or names a question or a choice that is not
            there.
    """
    lines = JsonLines(
        file,
        "an answered image",
        '{"image": "0001.jpg", "answers": {"weather": "rain"}}',
        AnswersError,
    )
    for where, content in lines:
        yield where, *_answered(lines, where, content, questions)


def _answered(
    lines: JsonLines, where: str, content: Mapping[str, Any], questions: Sequence[QuestionSpec]
) -> tuple[str, dict[str, str]]:
    try:
        name, answers = content["image"], dict(content["answers"])
    except (ValueError, KeyError, TypeError) as error:
        raise lines.bad(where, repr(error)) from error
    if not isinstance(name, str):
        raise lines.bad(where, "`image` must be a name")
    choices = {question.name: question.choices for question in questions}
    for question, answer in answers.items():
        if question not in choices:
            raise AnswersError(
                f"{where}: there is no question {question!r}; there are {', '.join(choices)}"
            )
        if answer not in choices[question]:
            raise AnswersError(
                f"{where}: {answer!r} is not a choice of {question!r}; its choices are "
                f"{', '.join(choices[question])}"
            )
    return name, answers
