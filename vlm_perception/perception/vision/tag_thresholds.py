# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of labels from scores of unlabelled images.

The two-groups model of Efron (Large-scale simultaneous hypothesis testing: the choice of a null
hypothesis, JASA 2004): most images do not show a label, and their scores are the null that all
others are compared with. It is measured on the images themselves, since a dual encoder's scores
have another offset and another scale for each label; nothing here depends on either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.vision.score_groups import Groups, one_group, two_groups

Scores = NDArray[np.float64]

LEAST_IMAGES = 100
LEAST_SHARE, LEAST_COUNT, LEAST_RUNS = 0.02, 8, 5
"""What the images above a threshold must be: this share, this many, at this many times."""
MOST_SHARE = 0.6
"""With more, which group is the null is a guess."""
APART = 1.6
"""Distance of the groups' means in their common spread (Ashman's D; above 2 they have a valley)."""
FAR, FAR_SHARE = 3.0, 0.035
"""So large a share of scores so far above the median is no tail: labels that are on no image have
2 % there, 3.7 % at most. Distances are in units of the spread below the median."""
NULL_SPREADS, LEAST_SPREADS = 3.8, 2.0
"""A threshold lies so far above the null's mean, in its spreads, and above the median, in those
below it."""
SHORT = 5.0
"""Where the highest score reaches less far, and few go beyond FAR, the label was never seen."""
SHORT_SHARE = 0.02
BEYOND = 0.5
"""A cautious threshold lies so far above everything seen, in spreads below the median."""
UNEXPLAINED = 2.0
"""What is left of the distance of the groups, in spreads, when negative prompts have been taken
out."""
ONE_GROUP, FEW = "its scores are one group", "too few images stand out"


class Verdict(Enum):
    """Whether a label's threshold can be told from the images."""

    FIRES = "fires"
    NEVER = "never seen"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Cut:
    """A label's threshold."""

    at: float
    """In the unit of the scores; above everything seen unless the label fires."""
    verdict: Verdict
    why: str = ""
    """What speaks against telling, in words."""


def find_cut(
    scores: Scores,
    contrast: Scores | None = None,
    recordings: NDArray[np.int64] | None = None,
) -> Cut:
    """Find the threshold of one label.

    Args:
        scores: [N], such as log-odds or cosines, in the order in which the images were taken.
        contrast: [N, prompts], the same images' scores for prompts that say nothing of the label.
        recordings: [N], a number for the recording of each image; all are of one where None.
    """
    if not np.isfinite(scores).all():
        return Cut(math.inf, Verdict.UNKNOWN, "its scores are no numbers")
    middle = float(np.median(scores))
    spread = _spread_below(scores)
    if spread <= 0.0:
        return Cut(math.nextafter(float(scores.max()), math.inf), Verdict.UNKNOWN, "most are equal")
    distances = (scores - middle) / spread
    if recordings is None:
        recordings = np.zeros(len(scores), np.int64)
    cut, why = _between(distances, recordings)
    if not why and contrast is not None and _explained(distances, distances >= cut, contrast):
        why = "negative prompts fire on the same images"
    if not why:
        return Cut(middle + cut * spread, Verdict.FIRES)
    highest = float(distances.max())
    cautious = max(middle + (highest + BEYOND) * spread, math.nextafter(scores.max(), math.inf))
    short = highest < SHORT and (distances > FAR).mean() < SHORT_SHARE
    if short and why in (ONE_GROUP, FEW):
        return Cut(cautious, Verdict.NEVER)
    return Cut(cautious, Verdict.UNKNOWN, why)


def _between(distances: Scores, recordings: NDArray[np.int64]) -> tuple[float, str]:
    """A threshold between two groups, and why there are none, if so."""
    groups = two_groups(distances)
    if groups is None:
        return math.inf, ONE_GROUP
    cut = max(groups.crossing, groups.low_mean + NULL_SPREADS * groups.low_spread, LEAST_SPREADS)
    above = distances >= cut
    # A recording that stands out as a whole shows another place, not necessarily the label.
    _, numbers, counts = np.unique(recordings, return_inverse=True, return_counts=True)
    crowded = np.bincount(numbers, above) > MOST_SHARE * counts
    telling = above & ~crowded[numbers]
    runs = int(telling[0]) + int((telling[1:] & ~telling[:-1]).sum())
    if not _apart(distances, groups):
        return cut, ONE_GROUP
    if groups.share > MOST_SHARE:
        return cut, f"it may be on more than {MOST_SHARE:.0%} of the images, or on none"
    if telling.sum() < max(LEAST_COUNT, LEAST_SHARE * len(distances)):
        return cut, FEW
    if runs < LEAST_RUNS:
        return cut, "the images that stand out were taken in one go"
    return cut, ""


def _apart(distances: Scores, groups: Groups) -> bool:
    """Whether two groups explain scores better than one that is skewed, or too many lie far off."""
    chance = 0.5 * math.sqrt(FAR_SHARE * (1.0 - FAR_SHARE) / len(distances))
    if (distances > FAR).mean() >= FAR_SHARE + chance:
        return True
    if groups.separation < APART:
        return False
    one_parameter_more = math.log(len(distances))  # of the Bayesian information criterion
    return 2.0 * (groups.log_likelihood - one_group(distances)) > one_parameter_more


def _explained(distances: Scores, above: NDArray[np.bool_], contrast: Scores) -> bool:
    """Whether images stand out only as far as a regression on other prompts foretells.

    It is fitted where the label is not, so that it knows what light, blur and framing do to scores.
    """
    columns = np.column_stack([np.ones(len(distances)), contrast])
    weights, *_ = np.linalg.lstsq(columns[~above], distances[~above], rcond=None)
    rest = distances - columns @ weights
    spread = _spread_below(rest[~above])
    return bool(np.median(rest[above]) - np.median(rest[~above]) < UNEXPLAINED * spread)


def _spread_below(scores: Scores) -> float:
    """Standard deviation of a normal distribution with the same median and 10th percentile.

    What a label adds to scores lies above the median, unless it is on most of the images.
    """
    low, middle = np.quantile(scores, (0.1, 0.5))
    return float(middle - low) / 1.2816
