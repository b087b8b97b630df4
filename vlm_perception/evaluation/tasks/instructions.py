# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Instruction following, in wordings and on scenes that the language model never saw.

Each figure comes with two baselines. The *majority* always gives the most common answer. The
*reader of the caption* has the bundle's caption instead of the image, and knows the most common
answer for captions that mention the same things: what it scores is already in the caption.
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
from vlm_perception.evaluation.task import run_task
from vlm_perception.evaluation.tasks.roadworld import evaluation_streets
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MOST_TOKENS = ReasonerSettings.max_caption_tokens
LEAST_ALIKE = 8
"""Number of similar captions from which the reader of captions trusts their most common answer."""


@dataclass
class Heard:
    """The outputs for one kind of instruction, scene by scene."""

    outputs: list[str] = field(default_factory=list)
    true: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Metrics:
    """How well one kind of instruction is followed: shares of the scenes."""

    right: float
    """The answer is the true one; a distance may be one step off."""
    exact: float
    """The answer is the true one, word for word."""
    caption: float
    """What a reader of the caption gets right."""
    majority: float
    """What the commonest answer gets right."""


def run(bundle: str, scenes: int) -> Report:
    """Give every kind of instruction on every scene, and report how it is followed.

    Raises:
        BundleError: The bundle cannot be used, or it has no language model.
    """
    return run_task(Following(ModelBundle.load(bundle)), evaluation_streets(scenes))


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
        prefix = self._language.read(self._encoder.encode(Frame(sample.image, 0), 0))
        caption = self._output(prefix, CAPTION_PROMPT)
        for instruction in INSTRUCTIONS:
            wording = instruction.held_out[self._scenes % len(instruction.held_out)]
            answers = self._heard[instruction.name]
            answers.outputs.append(self._output(prefix, wording))
            answers.true.append(instruction.answer(sample.truth))
            answers.captions.append(caption)
        self._scenes += 1

    def _output(self, prefix: Prefix, prompt: str) -> str:
        return self._language.generate(prefix, prompt, max_tokens=MOST_TOKENS).text

    def report(self) -> Report:
        """How each kind is followed."""
        metrics = {name: _metrics(name, answers) for name, answers in self._heard.items()}
        figures = _figures(metrics) | {"scenes": self._scenes, "bundle_digest": self._digest}
        return Report([_table(metrics)], figures)


def _metrics(name: str, heard: Heard) -> Metrics:
    instruction = next(kind for kind in INSTRUCTIONS if kind.name == name)
    pairs = list(zip(heard.outputs, heard.true, strict=True))
    return Metrics(
        right=float(np.mean([agrees(output, true) for output, true in pairs])),
        exact=float(np.mean([output == true for output, true in pairs])),
        caption=reader_accuracy(_mentioned(instruction, heard.captions), heard.true),
        majority=max(float(np.mean([agrees(a, b) for b in heard.true])) for a in set(heard.true)),
    )


def _mentioned(instruction: Instruction, captions: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the words that bear on the answer each caption holds, [scenes, words]."""
    return np.array([[word in text for word in instruction.caption_words] for text in captions])


def reader_accuracy(mentioned: NDArray[np.bool_], true: Sequence[str]) -> float:
    """Accuracy when each scene gets the most common answer of *other* scenes with equal captions.

    Args:
        mentioned: [scenes, facts], the most informative facts first. Where fewer than LEAST_ALIKE
            other scenes agree in all of them, the last ones are dropped.
        true: the true answers.
    """
    answers = sorted(set(true))
    fits = np.array([[agrees(a, b) for b in answers] for a in answers])
    columns = np.array([answers.index(answer) for answer in true])
    hits = 0
    for index, column in enumerate(columns):
        others = np.ones(len(columns), np.bool_)
        for facts in range(mentioned.shape[1], -1, -1):
            others = (mentioned[:, :facts] == mentioned[index, :facts]).all(axis=1)
            others[index] = False
            if others.sum() >= LEAST_ALIKE:
                break
        best = int(fits[:, columns[others]].sum(axis=1).argmax())
        hits += bool(fits[best, column])
    return hits / len(columns)


def _figures(metrics: dict[str, Metrics]) -> dict[str, object]:
    every = list(metrics.values())
    return {
        "instructions_right_mean": float(np.mean([m.right for m in every])),
        "instructions_right_min": min(m.right for m in every),
        "instructions_exact_mean": float(np.mean([m.exact for m in every])),
        "caption_reader_mean": float(np.mean([m.caption for m in every])),
        "majority_mean": float(np.mean([m.majority for m in every])),
        "instructions": {name: vars(m) for name, m in metrics.items()},
    }


def _table(metrics: dict[str, Metrics]) -> Table:
    table = Table(
        "instruction",
        "right",
        "exact",
        "caption",
        "majority",
        title="Instruction following, held-out wordings",
    )
    for name, m in metrics.items():
        row = (m.right, m.exact, m.caption, m.majority)
        table.add_row(name, *(f"{value:.3f}" for value in row))
    columns = zip(*(vars(m).values() for m in metrics.values()), strict=True)
    table.add_section()
    table.add_row("mean", *(f"{np.mean(column):.3f}" for column in columns))
    return table
