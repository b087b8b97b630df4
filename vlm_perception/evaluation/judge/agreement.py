# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far people who rated the same texts agree, beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from vlm_perception.evaluation.judge.figures import SCORES, Kind

Codes = NDArray[np.int64]


def agreement(ratings: Sequence[Sequence[float]], kind: Kind) -> dict[str, float | None]:
    """Cohen's kappa and Krippendorff's alpha; None where they are undefined.

    `kappa` (Cohen, 1960) treats all disagreements alike. Of more than two raters it is the mean
    over their pairs (Light, 1971), if all of these have one: the mean of the others would count two
    raters who agree throughout for nothing. `kappa_weighted`, of scores alone, has quadratic
    weights (Cohen, 1968). `alpha` (Krippendorff, Content Analysis, 2004, chapter 11) is ordinal for
    scores, nominal for pairs. None of them is defined where all ratings are the same, nor either
    kappa where all ratings of any two raters are.

    Args:
        ratings: [raters, items], without gaps; at least two raters.
        kind: what was rated.
    """
    codes = np.rint(2 * np.array(ratings)).astype(np.int64)  # whole numbers also for half points
    scores = kind is Kind.SCORES
    classes = [2 * score for score in SCORES] if scores else [0, 1, 2]
    found = {"kappa": _kappa(codes, classes, None)}
    if scores:
        found["kappa_weighted"] = _kappa(codes, classes, "quadratic")
    return {**found, "alpha": _alpha(codes, "ordinal" if scores else "nominal")}


def _kappa(codes: Codes, classes: Sequence[int], weights: str | None) -> float | None:
    pairs = list(combinations(codes, 2))
    if any(len(np.unique(pair)) == 1 for pair in pairs):
        return None
    found = [cohen_kappa_score(*pair, labels=classes, weights=weights) for pair in pairs]
    return float(np.mean(found))


def _alpha(codes: Codes, level: Literal["ordinal", "nominal"]) -> float | None:
    if len(np.unique(codes)) == 1:
        return None
    return float(krippendorff.alpha(codes, level_of_measurement=level))
