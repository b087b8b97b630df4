# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Typed answers on images whose answers are known: probabilities, and the figures that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.evaluation.comparison.scored import Array, ratio

BINS = 15
_LEAST = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class QuestionResults:
    """Probabilities of one question's choices, and the true choices."""

    name: str
    probabilities: NDArray[np.float64]
    """[N, choices]."""
    truth: NDArray[np.int64]
    """[N], index of the true choice; -1: not known."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Of which images the true choice is known, [N]."""
        return self.truth >= 0

    @property
    def right(self) -> NDArray[np.bool_]:
        """Where the likeliest choice is the true one, [N]."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.truth)

    @property
    def sure(self) -> Array:
        """Probability of the likeliest choice, [N]."""
        return np.asarray(self.probabilities.max(axis=1), np.float64)

    @property
    def bins(self) -> NDArray[np.int64]:
        """Which of BINS bins of equally many images each is in, by how sure the answer is, [N]."""
        order = np.argsort(self.sure, kind="stable")
        order = order[self.known[order]]
        found = np.full(len(self.truth), -1, np.int64)
        for index, part in enumerate(np.array_split(order, min(BINS, max(1, len(order))))):
            found[part] = index
        return found


@dataclass(frozen=True)
class AnswerResults:
    """Answers to several questions on the same images."""

    images: Sequence[str]
    questions: Sequence[QuestionResults]

    def figures(self, weights: Array) -> Mapping[str, Array]:
        """Accuracy, negative log-likelihood, Brier score and ECE of each question, and the means.

        Brier, Verification of forecasts expressed in terms of probability, 1950; the expected
        calibration error as in Guo et al., On Calibration of Modern Neural Networks, 2017, over
        bins of equally many images.
        """
        found: dict[str, Array] = {}
        for question in self.questions:
            for kind, value in question_figures(question, weights).items():
                found[f"answers.{question.name}.{kind}"] = value
        for kind in ("accuracy", "nll", "brier", "ece"):
            each = [found[f"answers.{question.name}.{kind}"] for question in self.questions]
            found[f"answers.mean.{kind}"] = np.mean(each, axis=0)
        return found


def question_figures(question: QuestionResults, weights: Array) -> dict[str, Array]:
    """Accuracy, nll, brier and ece of one question, [B] each; NaN without a known answer.

    Args:
        question: probabilities and true choices.
        weights: how often each image counts, [B, N].
    """
    known = question.known
    weights = weights[:, known]
    probabilities, truth = question.probabilities[known], question.truth[known]
    count = weights.sum(axis=1)
    true = probabilities[np.arange(len(truth)), truth]
    hot = np.eye(probabilities.shape[1])[truth]
    per_image = {
        "accuracy": question.right[known].astype(np.float64),
        "nll": -np.log(np.maximum(true, _LEAST)),
        "brier": ((probabilities - hot) ** 2).sum(axis=1),
    }
    found = {kind: ratio(weights @ value, count) for kind, value in per_image.items()}
    gaps = question.sure[known] - question.right[known]
    members = np.eye(BINS)[question.bins[known]]
    found["ece"] = ratio(np.abs(weights @ (gaps[:, np.newaxis] * members)).sum(axis=1), count)
    return found
