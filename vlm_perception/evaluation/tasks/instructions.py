# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the language model obeys instructions, in wordings and on scenes that it never saw.

Two baselines stand beside each figure. The *majority* always gives the commonest answer. The
*reader of the caption* has the bundle's caption instead of the image, and knows which answer is the
commonest where captions speak of the same things: what it scores, the caption says already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.instructions import INSTRUCTIONS, Instruction, agrees
from vlm_perception.datasets.roadworld.streets import Street
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.task import examine
from vlm_perception.evaluation.tasks.roadworld import exam_streets
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MOST_TOKENS = ReasonerSettings.max_caption_tokens
LEAST_ALIKE = 8
"""From as many captions alike on the reader of captions trusts their commonest answer."""


@dataclass
class Heard:
    """What was said to one kind of instruction, scene by scene."""

    said: list[str] = field(default_factory=list)
    true: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Marks:
    """How well one kind of instruction is obeyed: shares of the scenes."""

    right: float
    """The answer is the true one; a distance may be one step off."""
    exact: float
    """The answer is the true one, word for word."""
    caption: float
    """What a reader of the caption gets right."""
    majority: float
    """What the commonest answer gets right."""


def run(bundle: str, scenes: int) -> Report:
    """Give every kind of instruction on every scene, and tell how it is obeyed.

    Raises:
        BundleError: The bundle cannot be used, or it has no language model.
    """
    return examine(Following(ModelBundle.load(bundle)), exam_streets(scenes))


class Following:
    """A bundle that is given instructions, each in its held-out wordings in turn."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the networks.

        Raises:
            BundleError: The bundle has no language model.
        """
        self._encoder = VisionEncoder(bundle, threads=2)
        self._language = LanguageModel(bundle, threads=2)
        self._digest = bundle.digest
        self._heard = {instruction.name: Heard() for instruction in INSTRUCTIONS}
        self._scenes = 0

    def take(self, sample: Street) -> None:
        """Give every kind of instruction on one scene."""
        prefix = self._language.prefill(self._encoder.encode(Frame(sample.image, 0), 0).tokens)
        caption = self._said(prefix, CAPTION_PROMPT)
        for instruction in INSTRUCTIONS:
            wording = instruction.held_out[self._scenes % len(instruction.held_out)]
            answers = self._heard[instruction.name]
            answers.said.append(self._said(prefix, wording))
            answers.true.append(instruction.answer(sample.truth))
            answers.captions.append(caption)
        self._scenes += 1

    def _said(self, prefix: Prefix, prompt: str) -> str:
        return self._language.generate(prefix, prompt, max_tokens=MOST_TOKENS).text

    def report(self) -> Report:
        """How each kind is obeyed."""
        marks = {name: _mark(name, answers) for name, answers in self._heard.items()}
        figures = _figures(marks) | {"scenes": self._scenes, "bundle_digest": self._digest}
        return Report([_table(marks)], figures)


def _mark(name: str, heard: Heard) -> Marks:
    instruction = next(kind for kind in INSTRUCTIONS if kind.name == name)
    pairs = list(zip(heard.said, heard.true, strict=True))
    return Marks(
        right=float(np.mean([agrees(said, true) for said, true in pairs])),
        exact=float(np.mean([said == true for said, true in pairs])),
        caption=reader_accuracy(_told(instruction, heard.captions), heard.true),
        majority=max(float(np.mean([agrees(a, b) for b in heard.true])) for a in set(heard.true)),
    )


def _told(instruction: Instruction, captions: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the words that bear on the answer each caption holds, [scenes, words]."""
    return np.array([[word in text for word in instruction.caption_words] for text in captions])


def reader_accuracy(told: NDArray[np.bool_], true: Sequence[str]) -> float:
    """Share that is right when each scene is answered as most *other* scenes that were told alike.

    Args:
        told: [scenes, facts], the most telling facts first. Where fewer than LEAST_ALIKE other
            scenes agree in all of them, the last ones are let go.
        true: the true answers.
    """
    answers = sorted(set(true))
    fits = np.array([[agrees(a, b) for b in answers] for a in answers])
    columns = np.array([answers.index(answer) for answer in true])
    hits = 0
    for index, column in enumerate(columns):
        others = np.ones(len(columns), np.bool_)
        for facts in range(told.shape[1], -1, -1):
            others = (told[:, :facts] == told[index, :facts]).all(axis=1)
            others[index] = False
            if others.sum() >= LEAST_ALIKE:
                break
        best = int(fits[:, columns[others]].sum(axis=1).argmax())
        hits += bool(fits[best, column])
    return hits / len(columns)


def _figures(marks: dict[str, Marks]) -> dict[str, object]:
    every = list(marks.values())
    return {
        "instructions_right_mean": float(np.mean([m.right for m in every])),
        "instructions_right_min": min(m.right for m in every),
        "instructions_exact_mean": float(np.mean([m.exact for m in every])),
        "caption_reader_mean": float(np.mean([m.caption for m in every])),
        "majority_mean": float(np.mean([m.majority for m in every])),
        "instructions": {name: vars(m) for name, m in marks.items()},
    }


def _table(marks: dict[str, Marks]) -> Table:
    table = Table(
        "instruction", "right", "exact", "caption", "majority", title="Instructions, held-out words"
    )
    for name, m in marks.items():
        row = (m.right, m.exact, m.caption, m.majority)
        table.add_row(name, *(f"{value:.3f}" for value in row))
    columns = zip(*(vars(m).values() for m in marks.values()), strict=True)
    table.add_section()
    table.add_row("mean", *(f"{np.mean(column):.3f}" for column in columns))
    return table
