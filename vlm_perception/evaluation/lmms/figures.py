# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a task, from its rows; and the rows' parts in figures of lmms-eval's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SUBSETS = 4
"""Random halves of the rows on which a figure must be a mean to be taken for one."""
EXACT = 1e-4
"""Some tasks round their figures."""


@dataclass(frozen=True)
class Record:
    """One row of a task."""

    task: str
    row: int
    """Its number in the split."""
    text: str
    """The answer."""
    tokens: int
    error: str
    """Why there is no answer; empty: there is one."""
    moved: bool
    """Whether the task has text before the image, which the bundle reads after it."""
    cut: bool
    """Whether the decoder's last position came before the answer's end."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metrics that are means over rows: what this row adds."""


def figures(records: Sequence[Record]) -> dict[str, float]:
    """Counts of a task's rows, and the metrics that are means over them, with standard errors.

    Rows without an answer are in the denominator; what they score is the task's matter, which
    sees an empty text. `METRIC_answered` is the mean over the other rows, where there are both.

    Args:
        records: of one task.
    """
    found: dict[str, float] = {
        "rows": len(records),
        "errors": sum(bool(record.error) for record in records),
        "moved": sum(record.moved for record in records),
        "cut": sum(record.cut for record in records),
    }
    for metric in dict.fromkeys(metric for record in records for metric in record.scores):
        # SEED-Bench's rows of images have no part in its figure of videos.
        scores = [record.scores[metric] for record in records if metric in record.scores]
        found[metric] = float(np.mean(scores))
        if len(scores) > 1:
            found[f"{metric}_stderr"] = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
        answered = [r.scores[metric] for r in records if metric in r.scores and not r.error]
        if 0 < len(answered) < len(scores):
            found[f"{metric}_answered"] = float(np.mean(answered))
    return found


def parts_of_mean(aggregate: Callable[[list[Any]], Any], values: Sequence[Any]) -> list[float]:
    """What each row adds to a figure, if that is a mean over rows; else none.

    Accuracies are, precision and F1 are not. A task does not say which, so it is tried: a figure of
    single rows must have the figure of all rows, and of random halves, as its mean.

    Args:
        aggregate: makes a figure of rows.
        values: the rows, as `aggregate` takes them.
    """
    if not values:
        return []
    random = np.random.default_rng(0)
    halves = [random.permutation(len(values))[: (len(values) + 1) // 2] for _ in range(SUBSETS)]
    try:
        singles = []
        for value in values:
            single = aggregate([value])
            if isinstance(single, bool) or not isinstance(single, int | float | np.number):
                return []
            singles.append(float(single))
        for subset in (np.arange(len(values)), *halves):
            whole = float(aggregate([values[index] for index in subset]))
            mean = float(np.mean([singles[index] for index in subset]))
            if not abs(whole - mean) <= EXACT * max(1.0, abs(whole)):
                return []
    # A task's code may want more than one row.
    except Exception:
        return []
    return singles
