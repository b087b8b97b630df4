# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An arm of a study, a recipe with several seeds, and what it keeps of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.evaluation.distillation.seeds import BOTH, BySeed, Interval
from vlm_perception.evaluation.distillation.study import SeededRun


@dataclass(frozen=True)
class Arm:
    """A figure of all seeds of an arm."""

    seeds: tuple[int, ...]
    figure: BySeed

    def only(self, seeds: Sequence[int]) -> BySeed:
        """The figure of some of the seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return BySeed(self.figure.whole[rows], self.figure.drawn[rows])

    @property
    def as_one(self) -> BySeed:
        """The mean over the seeds, as of one model."""
        return BySeed(
            self.figure.whole.mean(keepdims=True), self.figure.drawn.mean(axis=0, keepdims=True)
        )


def gather(runs: Sequence[SeededRun], figures: Mapping[str, BySeed]) -> Arm:
    """An arm of its runs.

    Args:
        runs: the seeds.
        figures: of each run, by its name.
    """
    found = [figures[run.name] for run in runs]
    return Arm(
        tuple(run.recipe.seed for run in runs),
        BySeed(
            np.concatenate([each.whole for each in found]),
            np.concatenate([each.drawn for each in found]),
        ),
    )


def gain(first: Arm, second: Arm) -> BySeed:
    """The first less the second."""
    ours, theirs = _paired(first, second)
    return ours.with_(theirs, np.subtract)


def retention(first: Arm, second: Arm, chance: BySeed) -> BySeed:
    """What the first has of the second, both less what chance has."""
    ours, theirs = (each.with_(chance, np.subtract) for each in _paired(first, second))
    return ours.with_(theirs, np.divide)


def _paired(first: Arm, second: Arm) -> tuple[BySeed, BySeed]:
    """Seed by seed where both have several in common, else the second as one model."""
    common = sorted(set(first.seeds) & set(second.seeds))
    if len(common) > 1:
        return first.only(common), second.only(common)
    return first.figure, second.as_one


def bounds(name: str, found: Interval) -> dict[str, object]:
    """A figure and its interval, by keys."""
    return {
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_interval": found.over,
    }


def range_of(found: Interval, digits: int) -> str:
    """An interval for people, with a mark where it is over images alone."""
    mark = "" if found.over == BOTH else " *"
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}{mark}"
