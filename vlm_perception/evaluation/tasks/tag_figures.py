# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tags on images whose labels are known: their scores, and the figures that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.evaluation.comparison.scored import Array, ratio


@dataclass(frozen=True)
class TagResults:
    """Scores of labels, and which of them are there."""

    images: Sequence[str]
    labels: Sequence[str]
    scores: NDArray[np.float64]
    """[N, labels]."""
    present: NDArray[np.bool_]
    """[N, labels]."""
    held: NDArray[np.bool_]
    """[N, labels]: which labels the bundle reports, by its thresholds."""

    def figures(self, weights: Array) -> Mapping[str, Array]:
        """Average precision and F1 at the thresholds of each label, and their means over labels.

        NaN for a label that is in none of the images, or in all.
        """
        precision, f1 = [], []
        for column in range(len(self.labels)):
            there = self.present[:, column]
            precision.append(average_precision(self.scores[:, column], there, weights))
            f1.append(_f1(self.held[:, column], there, weights))
        found = {"tags.macro.ap": _mean(precision), "tags.macro.f1": _mean(f1)}
        for label, ap, at_threshold in zip(self.labels, precision, f1, strict=True):
            found |= {f"tags.{label}.ap": ap, f"tags.{label}.f1": at_threshold}
        return found

    def told_labels(self) -> list[str]:
        """The labels that are in some of the images, not in all, the most frequent first."""
        counts = dict(zip(self.labels, self.present.sum(axis=0).tolist(), strict=True))
        told = [label for label, count in counts.items() if 0 < count < len(self.images)]
        return sorted(told, key=lambda label: -counts[label])

    def curve(self, label: str) -> tuple[Array, Array]:
        """Recall and precision as the threshold falls, from the highest score on."""
        column = self.labels.index(label)
        tell = _tell(
            self.scores[:, column], self.present[:, column], np.ones((1, len(self.images)))
        )
        return tell.recall[0], tell.precision[0]


@dataclass(frozen=True)
class _Told:
    recall: Array
    """[B, thresholds]."""
    precision: Array


def average_precision(scores: Array, present: NDArray[np.bool_], weights: Array) -> Array:
    """Mean precision over the present images, as the threshold falls from score to score.

    Equal scores fall together, as in scikit-learn's average_precision_score.

    Args:
        scores: [N].
        present: [N].
        weights: how often each image counts, [B, N].

    Returns:
        [B]; NaN where all images, or none, are present.
    """
    if present.all() or not present.any():
        return np.full(len(weights), np.nan)
    told = _tell(scores, present, weights)
    steps = np.diff(told.recall, axis=1, prepend=0.0)
    value = (steps * told.precision).sum(axis=1)
    absent = weights @ ~present
    return np.asarray(np.where(absent > 0, value, np.nan), np.float64)


def _tell(scores: Array, present: NDArray[np.bool_], weights: Array) -> _Told:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    ordered = weights[:, order]
    above = np.cumsum(ordered, axis=1)[:, last]
    right = np.cumsum(ordered * present[order], axis=1)[:, last]
    recall = ratio(right, np.broadcast_to(right[:, -1:], right.shape))
    precision = np.where(above > 0, right / np.maximum(above, 1e-12), 0.0)
    return _Told(recall, precision)


def _f1(held: NDArray[np.bool_], present: NDArray[np.bool_], weights: Array) -> Array:
    hits, said, there = weights @ (held & present), weights @ held, weights @ present
    return np.where(there > 0, ratio(2 * hits, said + there), np.nan)


def _mean(values: Sequence[Array]) -> Array:
    """Over the labels of which each is known in all images; NaN where there is none."""
    table = np.stack(values)
    known = np.isfinite(table)
    return ratio(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
