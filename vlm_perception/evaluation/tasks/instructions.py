# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the language model obeys instructions, in wordings and on scenes that it never saw.

Two baselines stand beside each figure. The *majority* always gives the commonest answer. The
*reader of the caption* has the bundle's caption instead of the image, and knows which answer is the
commonest where captions speak of the same things: what it scores, the caption says already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.instructions import INSTRUCTIONS, Instruction, agrees
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT, SceneTruth
from vlm_perception.evaluation.tasks.roadworld import exam_scenes
from vlm_perception.outputs.file import write_figures
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

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


def evaluate(bundle: str, *, scenes: int = 500, json_file: Path | None = None) -> dict[str, object]:
    """Give every kind of instruction on every scene, print how it is obeyed, return the figures.

    Raises:
        BundleError: The bundle cannot be used, or it has no language model.
    """
    model = ModelBundle.load(bundle)
    heard = obey(model, exam_scenes(scenes))
    marks = {name: _mark(name, answers) for name, answers in heard.items()}
    figures = _figures(marks) | {"scenes": scenes, "bundle_digest": model.digest}
    console = Console()
    console.print(_table(marks))
    if json_file is not None:
        write_figures(json_file, figures)
        console.print(f"Written to {json_file}")
    return figures


def obey(
    bundle: ModelBundle, scenes: Iterable[tuple[NDArray[np.uint8], SceneTruth]]
) -> dict[str, Heard]:
    """Put each kind of instruction to the bundle on each scene, in held-out wordings in turn.

    Raises:
        BundleError: The bundle has no language model.
    """
    encoder, language = VisionEncoder(bundle, threads=2), LanguageModel(bundle, threads=2)
    most = ReasonerSettings().max_caption_tokens
    heard = {instruction.name: Heard() for instruction in INSTRUCTIONS}
    for number, (image, truth) in enumerate(scenes):
        prefix = language.prefill(encoder.encode(Frame(image, 0), 0).tokens)
        caption = language.generate(prefix, CAPTION_PROMPT, max_tokens=most).text
        for instruction in INSTRUCTIONS:
            wording = instruction.held_out[number % len(instruction.held_out)]
            answers = heard[instruction.name]
            answers.said.append(language.generate(prefix, wording, max_tokens=most).text)
            answers.true.append(instruction.answer(truth))
            answers.captions.append(caption)
    return heard


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
