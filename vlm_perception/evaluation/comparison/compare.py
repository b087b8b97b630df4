# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Two models on the same images: which of their figures really differ.

The images are resampled for both at once (a paired bootstrap), which leaves out what is only hard
or easy about an image. A replicate cannot tell p-values below one over their number, and corrected
for a hundred figures these must be far smaller; so only the standard error is taken from the
replicates, and the difference over it from the normal distribution (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, section 12.2). Over all figures Holm's correction holds the
chance of any false alarm (A simple sequentially rejective multiple test procedure, 1979).

With few images none of this holds: nothing is told of a figure that fewer than about 20 tell. Of
20, no p-value can be below that of the sign test, 2 * 0.5**20 (Dixon and Mood, The statistical sign
test, 1946): it is what all p-values are raised to. Where all images differ alike, and the
replicates with them, the interval reaches as far as if 3 of 20 did not differ, which is the most
that other images would hide with a chance of 5 % (Hanley and Lippman-Hand, If nothing goes wrong,
is everything all right?, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.comparison.bootstrap import (
    LEAST_IMAGES,
    REPLICATES,
    Resample,
    defined,
    resample,
    resample_few,
    span,
    standard_error,
)
from vlm_perception.evaluation.comparison.scored import Array, Scored

LEVEL = 0.05
"""Chance of calling any difference real when there is none."""
_NORMAL_95 = 1.959964
_LEAST_P = 2 * 0.5**LEAST_IMAGES
_HIDDEN = 3 / LEAST_IMAGES
"""Share of other images that may differ from those that are all alike."""
_ROUNDING = 1e-12


class ComparisonError(VlmPerceptionError):
    """Two models have nothing to be compared by."""


@dataclass(frozen=True)
class Difference:
    """One figure of two models."""

    first: float
    second: float
    low: float
    """Of the second less the first, 95 % interval of this figure alone; NaN: too few images."""
    high: float
    p: float
    """Chance of a difference as large without a real one, of this figure alone."""
    adjusted: float = float("nan")
    """The same, corrected for all figures that are looked at."""

    @property
    def value(self) -> float:
        """The second less the first."""
        return self.second - self.first

    @property
    def told(self) -> bool:
        """Whether there are images enough to tell chance from more."""
        return not math.isnan(self.p)

    @property
    def real(self) -> bool:
        """Whether it is more than chance."""
        return self.adjusted < LEVEL


def compare(
    pairs: Sequence[tuple[Scored, Scored]], replicates: int = REPLICATES
) -> dict[str, Difference]:
    """Every figure that two models have in common, by its name.

    Args:
        pairs: for each part of an evaluation the results of the first and of the second model.
            Only images that both have are looked at. No two parts have a figure of the same name.
        replicates: how often images are drawn.

    Raises:
        ComparisonError: the results of a part have no image in common.
    """
    found: dict[str, Difference] = {}
    for first, second in pairs:
        found |= _differences(first, second, replicates)
    return corrected(found)


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same with `adjusted` by Holm's method; a figure without a p-value stays without one."""
    known = sorted((each.p, name) for name, each in differences.items() if each.told)
    adjusted: dict[str, float] = {}
    least = 0.0
    for place, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        adjusted[name] = least
    return {
        name: Difference(
            each.first, each.second, each.low, each.high, each.p, adjusted.get(name, float("nan"))
        )
        for name, each in differences.items()
    }


def _differences(first: Scored, second: Scored, replicates: int) -> dict[str, Difference]:
    common = sorted(set(first.images) & set(second.images))
    if not common:
        raise ComparisonError(
            "the two models were evaluated on different images; give both the same data"
        )
    # The same images are drawn for both, as there are as many.
    every = [_among(each, common) for each in (first, second)]
    (ours, our_spread), (theirs, their_spread) = (
        resample(figures, len(common), replicates) for figures in every
    )
    our_few, their_few = (resample_few(figures, len(common)) for figures in every)
    found = {}
    for name in (name for name in ours if name in theirs):
        enough = len(common) >= LEAST_IMAGES and len(defined(their_few[name] - our_few[name])) > 0
        spreads = (our_spread[name], their_spread[name]) if enough else None
        found[name] = _difference(ours[name], theirs[name], spreads)
    return found


def _difference(first: float, second: float, spreads: tuple[Array, Array] | None) -> Difference:
    """From the figures and their replicates; None: too few images."""
    between, unknown = second - first, float("nan")
    error = unknown if spreads is None else standard_error(spreads[1] - spreads[0])
    if spreads is None or math.isnan(between) or math.isnan(error):
        return Difference(first, second, unknown, unknown, unknown)
    alike = error <= _ROUNDING
    if abs(between) <= _ROUNDING:
        p = 1.0
    else:
        p = _LEAST_P if alike else max(_LEAST_P, math.erfc(abs(between) / error / math.sqrt(2)))
    reach = _HIDDEN * abs(between) if alike else _NORMAL_95 * error
    (least, most), (lowest, highest) = (span(defined(spread)) for spread in spreads)
    low, high = max(between - reach, lowest - most), min(between + reach, highest - least)
    return Difference(first, second, low, high, p)


def _among(scored: Scored, images: Sequence[str]) -> Resample:
    """Figures of some images alone."""
    place = {image: index for index, image in enumerate(scored.images)}
    columns = [place[image] for image in images]

    def figures(weights: Array) -> Mapping[str, Array]:
        every = np.zeros((len(weights), len(place)))
        every[:, columns] = weights
        return scored.figures(every)

    return figures
