# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the temporal module on drives through the road world and on static scenes.

The vision graph is the bundle's own and stays as it is. What the module is taught: tags that are
right when they are read from the state, and that change only when the truth does; answers to the
typed questions from the event embedding, and a distance between two events that shows whether an
answer has changed in between. Readouts of the questions are fitted to the finished module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.modeling.temporal_attention import (
    TemporalAttention,
    TemporalConfig,
    ages_within,
    save_temporal,
)
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.outputs.own import own_folder
from vlm_perception.perception.reasoning.answer_memory import HORIZON_S
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder
from vlm_perception.training.loop import Schedule, fit
from vlm_perception.training.temporal_data import Seen, see, stretches
from vlm_perception.training.temporal_readout import fit_readouts

VERB = "train temporal"
MODULE = "temporal"
TICKS = 40
STRIDES = {10.0: (1, 1, 2), 30.0: (1, 2, 3, 5)}
"""Frames from one tick to the next, by the rate of a sequence: 5 to 30 ticks a second."""
SKIPPING = 0.3
"""Share of the windows in which ticks are left out at random."""
LEAST_DENSITY, MOST_WRONG = 0.1, 0.4
"""Of the ticks of a window at least this share is analysed; of the answers to a question at most
this share is drawn at random."""
READOUT_SCALE = 8.0
"""Events have length one; their readout may still be sure."""
LOSS_WEIGHTS = {"tags": 1.0, "flicker": 0.5, "answers": 1.0, "drift": 1.0, "recall": 1.0}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained module is."""

    seed: int = 0
    drives: int = 260
    quick: int = 60
    scenes: int = 100
    first_seed: int = 4_000_000
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=3000, batch=32, peak_rate=1e-3)
    )


RECIPE = Recipe()


@dataclass(frozen=True)
class Windows:
    """One step's pieces of sequences, B of T ticks."""

    pooled: Tensor
    """[B, T, D]"""
    times: Tensor
    """[B, T], in seconds."""
    present: Tensor
    """[B, T, labels] in {0, 1}."""
    truths: Tensor
    """[B, T, questions]"""


def cut(seen: Sequence[Seen], count: int, rng: np.random.Generator) -> Windows:
    """Draw windows; each with a rate of its own."""
    rows: list[tuple[NDArray[np.float32], ...]] = []
    pieces = []
    for index in rng.integers(len(seen), size=count):
        one = seen[int(index)]
        steps = np.full(TICKS, int(rng.choice(STRIDES[one.hz])))
        if rng.random() < SKIPPING:
            steps += rng.random(TICKS) < 0.3
        at = np.cumsum(steps) - steps[0]
        while at[-1] >= len(one.pooled):
            steps = np.maximum(1, steps - 1)
            at = np.cumsum(steps) - steps[0]
        at += int(rng.integers(len(one.pooled) - at[-1]))
        rows.append((one.pooled[at], (at / one.hz).astype(np.float32)))
        pieces.append((one.present[at], one.truths[at]))
    pooled, times = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
    present, truths = (torch.from_numpy(np.stack(part)) for part in zip(*pieces, strict=True))
    return Windows(pooled, times, present.float(), truths)


class TemporalObjective(nn.Module):
    """The module with its losses; what reads the answers is dropped after training."""

    def __init__(self, module: TemporalAttention, vocabulary: Vocabulary) -> None:
        """Wrap `module`; tags are read with the bundle's own text embeddings."""
        super().__init__()
        self.module = module
        choices = sum(len(choices) for _, choices in QUESTIONS.values())
        self.readout = nn.Linear(module.config.event_width, choices)
        self.drift_scale = nn.Parameter(torch.tensor(10.0))
        self.drift_border = nn.Parameter(torch.tensor(0.2))
        self.log_temperature = nn.Parameter(torch.tensor(0.15).log())
        self.text = nn.Buffer(torch.from_numpy(vocabulary.embeddings))
        self.scales = nn.Buffer(torch.from_numpy(vocabulary.scales))
        self.biases = nn.Buffer(torch.from_numpy(vocabulary.biases))

    def forward(self, windows: Windows, chance: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, each a scalar; `chance` draws on the CPU."""
        ages = ages_within(windows.times, self.module.config.slots)
        state, event = self.module.attend(windows.pooled, windows.pooled, ages)
        margins = state @ self.text.T * self.scales + self.biases
        present = windows.present
        same = present[:, 1:] == present[:, :-1]
        steps = (margins.sigmoid()[:, 1:] - margins.sigmoid()[:, :-1]).abs()
        return {
            "tags": F.binary_cross_entropy_with_logits(margins, present),
            "flicker": (steps * same).sum() / same.sum(),
            "answers": self._answers(event, windows.truths),
            "drift": self._drift(event, windows.truths),
            "recall": self._recall(event, windows, chance),
        }

    def _recall(self, event: Tensor, windows: Windows, chance: torch.Generator) -> Tensor:
        """Answers recalled from some ticks by attention; those of the ticks are wrong at times."""
        count, ticks = windows.times.shape
        truths = windows.truths

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=chance).to(event.device)

        ages = windows.times[:, :, None] - windows.times[:, None, :]
        distance = 1.0 - event @ event.transpose(1, 2)
        scores = -distance / self.log_temperature.exp() - (ages / HORIZON_S).square()
        analysed = draw(count, ticks) < LEAST_DENSITY + (1.0 - LEAST_DENSITY) * draw(count, 1) ** 2
        analysed[:, 0] = True
        allowed = analysed[:, None, :] & (ages >= 0)
        weights = scores.masked_fill(~allowed, -1e9).softmax(dim=-1)
        wrong = draw(*truths.shape) < MOST_WRONG * draw(count, 1, truths.shape[2])
        losses = []
        for i, (_, choices) in enumerate(QUESTIONS.values()):
            other = (draw(count, ticks) * len(choices)).long()
            answered = torch.where(wrong[..., i], other, truths[..., i])
            value = 0.8 * F.one_hot(answered, len(choices)).float() + 0.2 / len(choices)
            recalled = (weights @ value).clamp(min=1e-6).log()
            losses.append(F.nll_loss(recalled.flatten(0, 1), truths[..., i].flatten()))
        return torch.stack(losses).mean()

    def _answers(self, event: Tensor, truths: Tensor) -> Tensor:
        """The typed questions, read from the event embedding."""
        sizes = [len(choices) for _, choices in QUESTIONS.values()]
        parts = (READOUT_SCALE * self.readout(event)).split(sizes, dim=-1)
        return torch.stack(
            [
                F.cross_entropy(part.flatten(0, 1), truths[..., i].flatten())
                for i, part in enumerate(parts)
            ]
        ).mean()

    def _drift(self, event: Tensor, truths: Tensor) -> Tensor:
        """Whether an answer differs between two ticks of a window, judging by their distance."""
        distance = 1.0 - event @ event.transpose(1, 2)
        differs = (truths[:, :, None] != truths[:, None, :]).any(dim=-1).float()
        logits = self.drift_scale * (distance - self.drift_border)
        return F.binary_cross_entropy_with_logits(logits, differs)

    def finished(self) -> TemporalAttention:
        """The module alone, with the unit of drift that it has learned."""
        unit = round(float(self.log_temperature.detach().exp()), 4)
        self.module.config = self.module.config.model_copy(update={"drift_unit": unit})
        return self.module


def training_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_module(
    seen: Sequence[Seen], vocabulary: Vocabulary, recipe: Recipe, work: Path
) -> TemporalObjective:
    """Train, or resume, on sequences that were seen."""
    torch.manual_seed(recipe.seed)
    device = training_device()
    width = vocabulary.embeddings.shape[1]
    objective = TemporalObjective(TemporalAttention(TemporalConfig(width=width)), vocabulary)
    objective.to(device)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((recipe.seed, 9, step))
        drawn = cut(seen, recipe.schedule.batch, rng)
        moved = Windows(*(part.to(device) for part in vars(drawn).values()))
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        result: dict[str, Tensor] = objective(moved, chance)
        return result

    fit(objective, losses, LOSS_WEIGHTS, recipe.schedule, work, "temporal module")
    return objective


def train(bundle: str, checkpoint: Path, out: Path, recipe: Recipe = RECIPE) -> Path:
    """Train the temporal module of a bundle, or go on where an earlier run stopped.

    Args:
        bundle: name or directory of a road-world bundle, whose vision graph sees the drives.
        checkpoint: directory that the bundle was exported from; takes the module as `temporal/`.
        out: takes what was seen, logs and checkpoints.
        recipe: what is trained on what, and for how long.

    Returns:
        The directory of the module.

    Raises:
        VlmPerceptionError: there is no such bundle or checkpoint.
        OutputError: the checkpoint holds a module that was not trained here, or `out` other files.
    """
    model = ModelBundle.load(bundle)
    if not (checkpoint / "dual").is_dir():
        raise VlmPerceptionError(
            f"{checkpoint} contains no dual/; give the checkpoint directory that {bundle} was "
            "exported from"
        )
    results = ResultsFolder(checkpoint, VERB, [f"{MODULE}/*"])
    with results, own_folder(out, VERB, [checkpoint, model.path]) as work:
        if results.left_over:
            results.clear()
        wanted = stretches(recipe.drives, recipe.quick, recipe.scenes, recipe.first_seed)
        seen = see(model, wanted, work / "seen", os.cpu_count() or 1)
        vocabulary = VocabularyBuilder(model).build(LABELS, version=1)
        objective = fit_module(seen, vocabulary, recipe, work / MODULE)
        module = fit_readouts(objective.finished().cpu(), seen)
        save_temporal(module, results.work / MODULE)
        results.publish()
    return checkpoint / MODULE
