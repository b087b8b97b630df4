# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scores as one group or as two: which distribution makes them likelier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

STARTS = (0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98)
"""Quantiles at which the groups are parted to begin with."""
STEPS, ENOUGH = 80, 1e-4
LEAST_SPREAD = 0.25
"""Of a group; a single score would be infinitely likely otherwise."""
PLACES = 400
SIMPLEX_STEPS, SIMPLEX_ENOUGH = 250, 1e-2
STEEPEST_SKEW, STEEPEST_TAIL = 5.0, 2.0
LOG_ROOT_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Groups:
    """A mixture of two normal distributions."""

    log_likelihood: float
    share: float
    """Of the upper group."""
    low_mean: float
    low_spread: float
    high_mean: float
    high_spread: float

    @property
    def separation(self) -> float:
        """Ashman's D (Ashman, Bird, Zepf, AJ 1994)."""
        common = math.hypot(self.low_spread, self.high_spread)
        return math.sqrt(2.0) * (self.high_mean - self.low_mean) / common

    @property
    def crossing(self) -> float:
        """The score between the means from which on the upper group is the likelier one."""
        places = np.linspace(self.low_mean, self.high_mean, PLACES, dtype=np.float64)
        high = _log_density(places, self.share, self.high_mean, self.high_spread)
        low = _log_density(places, 1.0 - self.share, self.low_mean, self.low_spread)
        below = np.flatnonzero(high < low)
        return float(places[min(below[-1] + 1, PLACES - 1)] if len(below) else self.high_mean)


def two_groups(scores: Scores) -> Groups | None:
    """The likeliest mixture of two normal distributions, by expectation-maximisation.

    Args:
        scores: [N], in units of about their spread.

    Returns:
        None where no mixture keeps two scores or more in each group.
    """
    found = [_maximised(scores, float(np.quantile(scores, start))) for start in STARTS]
    usable = [each for each in found if each is not None and each.high_mean > each.low_mean]
    return max(usable, key=lambda each: each.log_likelihood, default=None)


def one_group(scores: Scores) -> float:
    """Log-likelihood of the sinh-arcsinh distribution that fits best: one group, however skewed.

    Jones and Pewsey, Sinh-arcsinh distributions, Biometrika 2009: location, scale, skewness and
    weight of the tails, one parameter fewer than two_groups has.

    Args:
        scores: [N], in units of about their spread.
    """

    def cost(parameters: Scores) -> float:
        place, log_scale, skew, log_tail = parameters
        if abs(skew) > STEEPEST_SKEW or abs(log_tail) > STEEPEST_TAIL:
            return math.inf
        inner = (scores - place) * math.exp(-log_scale)
        bent = np.clip(math.exp(log_tail) * np.arcsinh(inner) - skew, -30.0, 30.0)
        density = np.log(np.cosh(bent)) - 0.5 * np.log1p(inner**2) - 0.5 * np.sinh(bent) ** 2
        return -float(density.sum() + len(scores) * (log_tail - log_scale - LOG_ROOT_TAU))

    return -_least(cost, np.zeros(4))


def _maximised(scores: Scores, parted_at: float) -> Groups | None:
    upper = (scores >= parted_at).astype(np.float64)
    groups: Groups | None = None
    for _ in range(STEPS):
        count = upper.sum()
        if not 2.0 <= count <= len(scores) - 2.0:
            return None
        share = float(count / len(scores))
        low_mean, low_spread = _moments(scores, 1.0 - upper)
        high_mean, high_spread = _moments(scores, upper)
        high = _log_density(scores, share, high_mean, high_spread)
        both = np.logaddexp(high, _log_density(scores, 1.0 - share, low_mean, low_spread))
        upper = np.exp(high - both)
        total = float(both.sum())
        gained = math.inf if groups is None else total - groups.log_likelihood
        groups = Groups(total, share, low_mean, low_spread, high_mean, high_spread)
        if gained < ENOUGH:
            break
    return groups


def _moments(scores: Scores, weights: Scores) -> tuple[float, float]:
    total = weights.sum()
    mean = float((weights * scores).sum() / total)
    variance = float((weights * (scores - mean) ** 2).sum() / total)
    return mean, max(LEAST_SPREAD, math.sqrt(variance))


def _log_density(scores: Scores, share: float, mean: float, spread: float) -> Scores:
    return np.asarray(
        math.log(share / spread) - LOG_ROOT_TAU - 0.5 * ((scores - mean) / spread) ** 2
    )


def _least(cost: Callable[[Scores], float], start: Scores) -> float:
    """The least cost that a simplex finds (Nelder and Mead, 1965); scipy is for training only."""
    corners = [start, *(start + 0.5 * np.eye(len(start)))]
    costs = [cost(corner) for corner in corners]
    for _ in range(SIMPLEX_STEPS):
        order = np.argsort(costs)
        corners, costs = [corners[i] for i in order], [costs[i] for i in order]
        if costs[-1] - costs[0] < SIMPLEX_ENOUGH:
            break
        middle = np.mean(corners[:-1], axis=0)
        worst = corners[-1]
        step = 1.0 if (there := cost(2.0 * middle - worst)) < costs[-2] else -0.5
        if there < costs[0]:
            step = 2.0 if cost(3.0 * middle - 2.0 * worst) < there else 1.0
        fresh = middle + step * (middle - worst)
        if (reached := cost(fresh)) < costs[-1]:
            corners[-1], costs[-1] = fresh, reached
        else:
            corners = [corners[0], *(0.5 * (corners[0] + corner) for corner in corners[1:])]
            costs = [costs[0], *(cost(corner) for corner in corners[1:])]
    return float(min(costs))
