# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""POPE's questions: read from published files, or built from images whose objects are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.datasets.inflection import is_plural
from vlm_perception.evaluation.pope.negatives import SPLITS, LabelCounts
from vlm_perception.perception.tokenizer import TextError, require_text

YES, NO = "yes", "no"
EACH = 3
"""The most questions of each answer that are built for an image."""
SEED = 11
PUBLISHED = "Is there {} in the image?"
"""POPE's wording."""


class PopeError(VlmPerceptionError):
    """Questions or answers cannot be used; the message says what and where."""


@dataclass(frozen=True)
class Question:
    """One question about one image, with the keys of the published files."""

    question_id: int | str
    image: str
    text: str
    label: str
    """YES or NO."""


def files_by_split(given: Sequence[str], option: str) -> dict[str, Path]:
    """Which of the three sets each file belongs to: by its name, or as `random=FILE` says.

    Args:
        given: files.
        option: what they were given with, for sentences.

    Raises:
        PopeError: a name tells no set or several, or two files are of one set.
    """
    found: dict[str, Path] = {}
    for text in given:
        before, equals, after = text.partition("=")
        if equals and before in SPLITS:
            splits, file = [before], Path(after)
        else:
            file = Path(text)
            splits = [split for split in SPLITS if split in file.name.lower()]
        if len(splits) != 1:
            raise PopeError(
                f"the name of {file} does not tell which set it is; write {option} random={file}, "
                "popular= or adversarial="
            )
        if splits[0] in found:
            raise PopeError(
                f"{found[splits[0]]} and {file} are both of the set {splits[0]}; give one of them"
            )
        found[splits[0]] = file
    return found


def read_questions(file: Path) -> list[Question]:
    """The questions of a file in the published format.

    `{"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}`,
    one a line, or all in one array, as the published files of A-OKVQA and GQA are.

    Raises:
        PopeError: it is missing, damaged or empty, or an id is there twice.
    """
    lines = JsonLines(
        file,
        "a question of POPE",
        '{"question_id": 1, "image": "0001.jpg", "text": "Is there a dog in the image?", '
        '"label": "no"}',
        PopeError,
        arrays=True,
    )
    found: dict[str, Question] = {}
    for where, content in lines:
        question = _question(lines, where, content)
        if str(question.question_id) in found:
            raise PopeError(
                f"{where}: the question_id {question.question_id!r} was there before; number the "
                "questions anew"
            )
        found[str(question.question_id)] = question
    if not found:
        raise PopeError(f"{file} holds no question; write lines such as {lines.example}")
    return list(found.values())


def _question(lines: JsonLines, where: str, content: Mapping[str, Any]) -> Question:
    identity, label = content.get("question_id"), content.get("label")
    if not isinstance(identity, int | str) or isinstance(identity, bool):
        raise lines.bad(where, "`question_id` must be a number or a text")
    if label not in (YES, NO):
        raise lines.bad(where, "`label` must be yes or no")
    for key in ("image", "text"):
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise lines.bad(where, f"`{key}` must be a text that is not empty")
    try:
        require_text(content["text"])
    except TextError as error:
        raise lines.bad(where, error) from error
    return Question(identity, content["image"], content["text"], label)


def as_json(question: Question) -> dict[str, object]:
    """A line of a published file."""
    return asdict(question)


def worded(wording: str, name: str) -> str:
    """A question about one object.

    Args:
        wording: with {} in place of the object, such as PUBLISHED.
        name: the object; it gets an article, unless it is a plural.
    """
    article = "an" if name[0].lower() in "aeiou" else "a"
    return wording.replace("{}", name if is_plural(name.lower()) else f"{article} {name}")


def build_questions(
    images: Sequence[tuple[str, Sequence[str]]],
    labels: Sequence[str],
    ask: Callable[[str], str],
) -> dict[str, list[Question]]:
    """The three sets for images whose objects are all known: of each as many yes as no.

    An image is asked for up to EACH objects that it shows, the same in all sets, and for as many
    that it does not show; fewer where it shows fewer, or nearly all. The same images give the same
    questions.

    Args:
        images: name of each, and what it shows.
        labels: all that an image might show.
        ask: gives a question about one object.

    Raises:
        PopeError: no question can be asked of any image.
    """
    names = sorted(labels)
    column = {name: index for index, name in enumerate(names)}
    shown = [np.array([column[name] for name in objects], np.int64) for _, objects in images]
    counts = LabelCounts(shown, len(names))
    sets: dict[str, list[Question]] = {split: [] for split in SPLITS}
    for index, ((image, _), here) in enumerate(zip(images, shown, strict=True)):
        rng = np.random.default_rng((SEED, index))
        absent = np.setdiff1d(np.arange(len(names)), here)
        number = min(EACH, len(here), len(absent))
        if not number:
            continue
        positives = rng.permutation(here)[:number]
        for split, questions in sets.items():
            negatives = counts.ordered(split, here, absent, rng)[:number]
            for positive, negative in zip(positives, negatives, strict=True):
                for asked, label in ((positive, YES), (negative, NO)):
                    text = ask(names[asked])
                    questions.append(Question(len(questions) + 1, image, text, label))
    if not sets[SPLITS[0]]:
        raise PopeError(
            "no question can be built: each image shows no object, or all that there are; label "
            "images that differ"
        )
    return sets
