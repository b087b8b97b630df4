# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions and typed answers of many bundles on the same scenes of the road world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS, Street
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT, QUESTIONS, object_labels_in
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS
from vlm_perception.evaluation.comparison.bootstrap import resample
from vlm_perception.evaluation.comparison.scored import Array, ratio
from vlm_perception.evaluation.distillation.exam import Examined, examine
from vlm_perception.evaluation.distillation.seeds import BySeed
from vlm_perception.evaluation.distillation.tags import by_name
from vlm_perception.evaluation.tasks.roadworld import MAX_CAPTION_TOKENS
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

CAPTIONS, ANSWERS = "captions", "answers"
CHANCE = "chance"
_FREQUENT = 1 / 3
"""Objects that a blind caption names: those in more of the scenes, which is best for its F1."""


@dataclass(frozen=True)
class Words:
    """What was said of each scene, or is true of it."""

    choices: NDArray[np.int64]
    """[scenes, questions]: index of the choice; -1: none of them."""
    named: NDArray[np.bool_]
    """[scenes, objects]."""


def words(
    bundles: Mapping[str, ModelBundle], scenes: int, folder: Path
) -> tuple[dict[str, Words], Words]:
    """What each bundle says of the scenes, and what is true.

    Args:
        bundles: by name; each with a language model.
        scenes: how many.
        folder: keeps what was said; it exists.

    Raises:
        BundleError: a bundle lacks a file.
    """
    said, true = examine("words", bundles, _speaker, _truth, scenes, folder)
    return {name: _as_words(rows) for name, rows in said.items()}, _as_words(true)


def _speaker(bundle: ModelBundle) -> Examined:
    encoder, language = VisionEncoder(bundle, threads=1), LanguageModel(bundle, threads=1)
    packed = language.pack(TYPED_QUESTIONS)

    def say(street: Street) -> dict[str, list[int]]:
        prefix = language.read(encoder.encode(Frame(street.image, 0), 0))
        answers = {each.name: each.value for each in language.answer(prefix, packed)}
        caption = language.generate(prefix, CAPTION_PROMPT, max_tokens=MAX_CAPTION_TOKENS)
        return _item(answers, object_labels_in(caption.text))

    return say


def _truth(street: Street) -> dict[str, list[int]]:
    return _item(street.truth.attributes, street.truth.shares)


def _item(answers: Mapping[str, str], named: Any) -> dict[str, list[int]]:
    choices = {name: choices for name, (_, choices) in QUESTIONS.items()}
    return {
        ANSWERS: [
            among.index(answers[name]) if answers.get(name) in among else -1
            for name, among in choices.items()
        ],
        "named": [int(label in named) for label in OBJECT_LABELS],
    }


def _as_words(rows: Sequence[Mapping[str, Any]]) -> Words:
    return Words(
        np.array([row[ANSWERS] for row in rows], np.int64),
        np.array([row["named"] for row in rows], np.bool_),
    )


def word_figures(
    said: Mapping[str, Words], true: Words, replicates: int
) -> dict[str, dict[str, BySeed]]:
    """Of captions (F1 of the objects named) and of answers (balanced accuracy) for each model.

    `chance` stands beside the models: captions that always name the frequent objects, and
    answers at random.
    """
    blind = np.broadcast_to(true.named.mean(axis=0) > _FREQUENT, true.named.shape)

    def captions(weights: Array) -> dict[str, Array]:
        names = {name: each.named for name, each in said.items()}
        return {
            name: _f1(each, true.named, weights) for name, each in {**names, CHANCE: blind}.items()
        }

    def answers(weights: Array) -> dict[str, Array]:
        found = {
            name: _balanced(each.choices, true.choices, weights) for name, each in said.items()
        }
        random = float(np.mean([1 / len(choices) for _, choices in QUESTIONS.values()]))
        return {**found, CHANCE: np.full(len(weights), random)}

    count = len(true.named)
    return {
        CAPTIONS: by_name(*resample(captions, count, replicates)),
        ANSWERS: by_name(*resample(answers, count, replicates)),
    }


def _f1(named: NDArray[np.bool_], true: NDArray[np.bool_], weights: Array) -> Array:
    hits = weights @ (named & true).sum(axis=1)
    return ratio(2 * hits, weights @ (named.sum(axis=1) + true.sum(axis=1)))


def _balanced(said: NDArray[np.int64], true: NDArray[np.int64], weights: Array) -> Array:
    """Mean over the questions of the mean recall over the choices that are true somewhere."""
    found = []
    for ours, theirs in zip(said.T, true.T, strict=True):
        recalls = [
            ratio(weights @ ((ours == choice) & (theirs == choice)), weights @ (theirs == choice))
            for choice in np.unique(theirs)
        ]
        found.append(np.nanmean(np.stack(recalls), axis=0))
    return np.asarray(np.mean(found, axis=0), np.float64)
