# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""POPE's figures from its answers: those of the published script, to the last digit.

Accuracy, precision, recall, F1 and yes-ratio as `evaluate.py` of github.com/AoiDragon/POPE has
them; NaN where it divides by zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from vlm_perception.evaluation.comparison.scored import Array, Counted, ratio
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.pope.questions import NO, YES

FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
MEAN = "mean"
TARGET_F1 = 0.85
_COUNTED = ("tp", "fp", "tn", "fn", "neither")


@dataclass(frozen=True)
class Record:
    """One question with its answers."""

    split: str
    question_id: int | str
    image: str
    question: str
    label: str
    """YES or NO."""
    answer: str
    """What was written."""
    likelier: str | None = None
    """Which of YES and NO was the likelier answer; None where only texts are known."""
    p_yes: float | None = None
    """The probability of YES, of the two."""


def read_answer(text: str) -> str:
    """What an answer says, YES or NO, by the published rules.

    Only the first sentence is read; it says no if No, not or no is one of its words, else yes.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return YES if {"No", "not", "no"}.isdisjoint(words) else NO


def is_neither(text: str) -> bool:
    """Whether an answer counts as yes by those rules without saying yes: silence, for instance."""
    said = re.search(r"\byes\b", text.partition(".")[0], re.IGNORECASE)
    return read_answer(text) == YES and said is None


def by_likelihood(records: Sequence[Record]) -> Counted:
    """The figures `pope.*`, of the likelier answers, or where these are unknown of the written."""
    return _counted("pope", [(r, r.likelier or read_answer(r.answer), False) for r in records])


def by_free_text(records: Sequence[Record]) -> Counted:
    """The figures `pope_free_text.*`, of what was written, with how many answers were neither."""
    said = [(r, read_answer(r.answer), is_neither(r.answer)) for r in records]
    return _counted("pope_free_text", said)


def figures(records: Sequence[Record]) -> dict[str, object]:
    """All figures by their JSON keys, `pope` and `pope_free_text`."""
    found: dict[str, object] = {}
    for counted in (by_likelihood(records), by_free_text(records)):
        for name, value in counted.figures(np.ones((1, len(counted.images)))).items():
            *path, last = name.split(".")
            place = found
            for key in path:
                place = cast(dict[str, object], place.setdefault(key, {}))
            number = float(value[0])
            whole = last == "neither" and number.is_integer()
            place[last] = int(number) if whole else number
    return found


def _counted(name: str, answered: Sequence[tuple[Record, str, bool]]) -> Counted:
    images = list(dict.fromkeys(record.image for record, _, _ in answered))
    row = {image: index for index, image in enumerate(images)}
    counts = np.zeros((len(images), len(SPLITS), len(_COUNTED)))
    for record, said, neither in answered:
        place = counts[row[record.image], SPLITS.index(record.split)]
        kind = ("t" if said == record.label else "f") + ("p" if said == YES else "n")
        place[_COUNTED.index(kind)] += 1
        place[_COUNTED.index("neither")] += neither

    def ratios(sums: Array) -> Mapping[str, Array]:
        return _ratios(name, sums.reshape(len(sums), len(SPLITS), len(_COUNTED)))

    return Counted(images, counts.reshape(len(images), len(SPLITS) * len(_COUNTED)), ratios)


def _ratios(name: str, sums: Array) -> dict[str, Array]:
    """Figures, [B] each, from the counts of the three sets, [B, 3, 5]."""
    tp, fp, tn, fn, neither = np.moveaxis(sums, -1, 0)
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    every = tp + tn + fp + fn
    columns = {
        "accuracy": ratio(tp + tn, every),
        "precision": precision,
        "recall": recall,
        "f1": ratio(2 * precision * recall, precision + recall),
        "yes_ratio": ratio(tp + fp, every),
    }
    if name == "pope_free_text":
        columns["neither"] = np.where(every > 0, neither, np.nan)
    found: dict[str, Array] = {}
    for index, split in enumerate(SPLITS):
        found |= {f"{name}.{split}.{key}": value[:, index] for key, value in columns.items()}
    # Of three sets: without one of them it would be another figure.
    found |= {f"{name}.{MEAN}.{key}": value.mean(axis=1) for key, value in columns.items()}
    return found
