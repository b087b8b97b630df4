# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over images: how far a figure, or the difference of two, would vary with other images.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 6.2 and 13.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from vlm_perception.evaluation.comparison.scored import Array, Scored

REPLICATES = 1000
SEED = 19
LEAST_DEFINED = 0.95
"""Share of the replicates in which a figure must be defined, or nothing is said of its spread."""
LEAST_IMAGES = 20
"""A difference is told where about as many images tell its figure."""
_FEW_DRAWS = 200
_BLOCK = 4_000_000
"""Weights that are held at once."""

Resample = Callable[[Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % percentile interval; NaN where it is too seldom defined."""

    value: float
    low: float
    high: float


def estimate(
    scored: Scored,
    replicates: int = REPLICATES,
    scales: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> dict[str, Estimate]:
    """Every figure of a model, as its images give it.

    Args:
        scored: what the model did on the images.
        replicates: how often images are drawn.
        scales: the least and the most that a figure can be, by its name; of others their replicates
            tell whether they are shares.
    """
    whole, spread = resample(scored.figures, len(scored.images), replicates)
    return {name: _estimate(value, spread[name], scales.get(name)) for name, value in whole.items()}


def resample(
    figures: Resample, images: int, replicates: int = REPLICATES
) -> tuple[dict[str, float], dict[str, Array]]:
    """Figures of all images, and of as many drawn with replacement, again and again.

    Args:
        figures: gives figures [B] for weights [B, images].
        images: how many there are.
        replicates: how often images are drawn; the same draws for the same number of images.

    Returns:
        The figures by name, and of each its replicates.
    """
    whole = {name: float(value[0]) for name, value in figures(np.ones((1, images))).items()}
    blocks = [figures(weights) for weights in _draws(images, replicates)]
    return whole, {name: np.concatenate([block[name] for block in blocks]) for name in whole}


def resample_few(figures: Resample, images: int) -> dict[str, Array]:
    """Replicates of so few images that a figure is seldom defined if only some images tell it.

    They are as many as miss `LEAST_IMAGES` of all images with the chance that is left by
    `LEAST_DEFINED`: one label's recall, which needs an image with the label, is seldom defined if
    fewer have it.
    """
    missing = 1 - LEAST_IMAGES / images if images > LEAST_IMAGES else 0.0
    size = math.ceil(math.log(1 - LEAST_DEFINED) / math.log(missing)) if missing else 1
    (weights,) = _draws(images, _FEW_DRAWS, size)
    return dict(figures(weights))


def _estimate(value: float, spread: Array, scale: tuple[float, float] | None) -> Estimate:
    """A figure and the percentiles of its replicates.

    These are moved by the mean distance of the replicates from the figure (as above, section 10.2):
    a calibration error is larger in nearly every replicate, where images repeat. What is never
    below 0 or above 1 stays so, as does what has a scale on it.
    """
    known = defined(spread)
    if not len(known):
        return Estimate(value, float("nan"), float("nan"))
    bounds = np.percentile(known, (2.5, 97.5)) - (known.mean() - value)
    low, high = bounds.clip(*(span(known) if scale is None else scale))
    return Estimate(value, float(low), float(high))


def span(known: Array) -> tuple[float, float]:
    """What a figure cannot leave, by its replicates: 0 where none is below, 1 where none is above.

    Unbounded where they do.
    """
    return 0.0 if known.min() >= 0 else -np.inf, 1.0 if known.max() <= 1 else np.inf


def standard_error(spread: Array) -> float:
    """Standard deviation of the replicates; NaN where too few are defined."""
    known = defined(spread)
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")


def defined(spread: Array) -> Array:
    """The replicates that are numbers, or none where they are too few."""
    known = spread[np.isfinite(spread)]
    return np.asarray(known if len(known) >= LEAST_DEFINED * len(spread) else known[:0], np.float64)


def _draws(images: int, replicates: int, size: int | None = None) -> Iterator[Array]:
    """How often each image is drawn among `size`, [block, images], block by block.

    As many as there are, without a size.
    """
    rng = np.random.default_rng(SEED)
    size = images if size is None else size
    block = max(1, _BLOCK // max(1, images))
    for first in range(0, replicates, block):
        rows = np.arange(min(block, replicates - first))[:, np.newaxis]
        drawn = rng.integers(0, images, (len(rows), size)) + images * rows
        counts = np.bincount(drawn.ravel(), minlength=images * len(rows))
        yield counts.reshape(len(rows), images).astype(np.float64)
