# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far a figure would vary with other seeds of the training, and with other images.

Images are drawn again and again, the same for all seeds and arms. Seeds are crossed with them: to
draw both counts what only some seeds find hard about an image twice (Owen, The pigeonhole
bootstrap, 2007). So the variance of the mean is that between seeds and that of drawn images, less
that part. Few seeds tell their own variance badly; the interval is as wide as Student's t of as
many degrees of freedom says (Satterthwaite, An approximate distribution of estimates of variance
components, 1946).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from vlm_perception.evaluation.comparison.scored import Array

LEAST_SEEDS = 5
"""With fewer nothing is said of other seeds."""
BOTH, IMAGES = "seeds and images", "images"
"""What an interval is over."""


@dataclass(frozen=True)
class BySeed:
    """A figure of an arm: by seed, of all images and of each draw of them."""

    whole: Array
    """[seeds]."""
    drawn: Array
    """[seeds, draws]."""

    def with_(self, other: BySeed, function: Callable[[Array, Array], Array]) -> BySeed:
        """A figure of two, seed by seed and draw by draw; one seed stands beside all of another."""
        return BySeed(
            function(*np.broadcast_arrays(self.whole, other.whole)),
            function(*np.broadcast_arrays(self.drawn, other.drawn)),
        )


@dataclass(frozen=True)
class Interval:
    """The mean of a figure over the seeds, with its 95 % interval."""

    value: float
    low: float
    high: float
    over: str
    """`seeds and images`, or `images` where seeds are too few."""
    seeds: int


def interval(figure: BySeed) -> Interval:
    """The mean of a figure over its seeds, with its interval."""
    seeds, value = len(figure.whole), float(figure.whole.mean())
    of_images = float(figure.drawn.mean(axis=0).var(ddof=1))
    if seeds < LEAST_SEEDS:
        variance, freedom, over = of_images, np.inf, IMAGES
    else:
        of_seeds = float(figure.whole.var(ddof=1)) / seeds
        apart = float(figure.drawn.var(axis=1, ddof=1).mean()) - of_images
        twice = max(0.0, apart) / (seeds - 1)
        variance, over = max(of_seeds + of_images - twice, of_seeds, of_images), BOTH
        freedom = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds else np.inf
    reach = float(student_t.ppf(0.975, freedom)) * variance**0.5
    return Interval(value, value - reach, value + reach, over, seeds)
