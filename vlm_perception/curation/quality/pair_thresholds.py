# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of pairs from the error rates that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """Two thresholds, and what they cost where they were found."""

    reject: float
    """Below it a pair is rejected."""
    accept: float
    """Above it a pair is taken."""
    false_accepts: float
    """Share of the shuffled pairs above `accept`."""
    false_rejects: float
    """Share of the good pairs below `reject`."""


def bounds(good: Scores, shuffled: Scores, false_accept: float, false_reject: float) -> Bounds:
    """The bounds between which it is not certain whether a pair is good.

    Where good and shuffled pairs are so far apart that no score is uncertain, both are the lower
    one: as many good pairs are rejected as was asked, and fewer shuffled ones are accepted.

    Args:
        good: scores of good pairs, [N], at least one.
        shuffled: scores of images with captions of others, [M], at least one.
        false_accept: greatest share of the shuffled ones above `accept`.
        false_reject: greatest share of the good ones below `reject`.
    """
    # Bounds are scores that were seen, so that no more than the share lies beyond them.
    reject = float(np.quantile(good, false_reject, method="lower"))
    accept = float(np.quantile(shuffled, 1.0 - false_accept, method="higher"))
    if reject > accept:
        # What equals the bound is neither above nor below it.
        accept = float(np.nextafter(reject, -np.inf))
    return Bounds(
        reject=reject,
        accept=accept,
        false_accepts=float((shuffled > accept).mean()),
        false_rejects=float((good < reject).mean()),
    )


def shuffled_partners(texts: list[frozenset[str]], seed: int) -> NDArray[np.int64]:
    """For each image another whose captions are none of its own; itself where there is none.

    Args:
        texts: the captions of each image.
        seed: of the draw.
    """
    count = len(texts)
    order = np.random.default_rng(seed).permutation(count)
    partners = np.arange(count)
    for place, image in enumerate(order):
        for step in range(1, count):
            other = order[(place + step) % count]
            if not texts[image] & texts[other]:
                partners[image] = other
                break
    return partners
