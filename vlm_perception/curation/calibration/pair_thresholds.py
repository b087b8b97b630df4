# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of pairs from the error rates that are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def joint_limits(good: Mapping[str, Scores], share: float) -> dict[str, float]:
    """Limits of several figures below which, in any of them, at most a share of pairs lies.

    Each limit is the same quantile of its figure, the highest that the share allows: without
    knowing bad pairs, no figure is trusted more than another.

    Args:
        good: figures of good pairs, by name, [N] each, at least one pair; low ones are bad.
        share: of the pairs, 0 to 1.
    """
    ordered = {name: np.sort(values) for name, values in good.items()}
    count = len(next(iter(good.values())))
    for below in range(int(share * count), -1, -1):
        limits = {name: float(values[min(below, count - 1)]) for name, values in ordered.items()}
        if rejected(good, limits).mean() <= share:
            break
    return limits


def rejected(figures: Mapping[str, Scores], limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which pairs lie below a limit, [N].

    Args:
        figures: of the pairs, by name, [N] each.
        limits: by name.
    """
    return np.asarray(np.any([figures[name] < limit for name, limit in limits.items()], axis=0))


def upper_limit(shuffled: Scores, share: float, lower: float) -> float:
    """The limit above which at most a share of shuffled pairs lies, but not below another limit.

    Where good and shuffled pairs are so far apart that no score is uncertain, it is that: what
    equals it is taken.

    Args:
        shuffled: scores of images with captions of others, [N], at least one.
        share: of them.
        lower: limit.
    """
    upper = float(np.quantile(shuffled, 1.0 - share, method="higher"))
    return upper if upper >= lower else float(np.nextafter(lower, -np.inf))


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
