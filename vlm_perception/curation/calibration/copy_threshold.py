# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The cosine from which on an encoder takes one image for a copy of another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.embedding_measure import cosines, unit
from vlm_perception.curation.thresholds.copy_cosine import CopyThreshold


def copy_threshold(
    images: NDArray[np.floating], copies: NDArray[np.floating], false_accepts: float
) -> CopyThreshold:
    """The lowest threshold at which few enough images are taken for a copy of another.

    The rate is that among these images: the more there are, the likelier one resembles another.

    Args:
        images: embeddings of different images, [N, D], two or more.
        copies: embeddings of copies, [N, C, D], C of each image.
        false_accepts: greatest share of the images, 0 to 1 (exclusive).
    """
    units = unit(images)
    between = cosines(units, units)
    np.fill_diagonal(between, -1.0)
    closest = np.sort(between.max(axis=1))[::-1]
    # Just above the first image that must not be taken for another.
    allowed = math.floor(false_accepts * len(closest))
    cosine = math.nextafter(float(closest[allowed]), 2.0)
    own = [cosines(unit(each), one[None]) for each, one in zip(copies, units, strict=True)]
    return CopyThreshold(
        cosine=cosine,
        accepted=float((closest >= cosine).mean()),
        rejected=float((np.concatenate(own) < cosine).mean()),
    )
