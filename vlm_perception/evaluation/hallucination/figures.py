# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How many of the objects that texts name are not there, and how many of those there they name.

CHAIR: Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018, section 3.1. As its
definition says, an object counts once for each text, however often that names it (the published
code counts each mention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm_perception.evaluation.comparison.bootstrap import LEAST_IMAGES, estimate
from vlm_perception.evaluation.comparison.compare import compare
from vlm_perception.evaluation.comparison.scored import Array, Counted, ratio

SCALES = {"1": 1, "1/2": 2, "1/4": 4, "1/8": 8}
"""Of the sides of the towers' input: what they are called, and what they are divided by."""
FINAL = "final"
TEXTS = (FINAL, "partial", "cut")
"""The whole text; what is shown of it while it is written; what is left of it when its time or its
tokens are over, wherever that is."""
FIGURES = ("chair_s", "chair_i", "recall", "named")

Record = Mapping[str, Any]
"""What was found for one image, for JSON: `image`; `objects`, the labels of what is there; `texts`,
by scale, and in these by the kind of text, the labels that were named."""


def figures(records: Sequence[Record]) -> dict[str, Any]:
    """All figures with their 95 % intervals, of a bootstrap over the images.

    Returns:
        By figure and scale those of the final texts, `{"chair_s": {"1": ..., "1/2": ...},
        "chair_s_low": ..., "chair_s_high": ...}`; the same for the other kinds of texts under
        their names; and `begins_at`, the largest scale at which more of what final texts name is
        not there than at full size: the interval of the difference of `chair_i` is above 0. It is
        None, too, where too few images tell; see `compared`.
    """
    every: dict[str, Any] = {}
    for text in TEXTS:
        found: dict[str, dict[str, float]] = {}
        for scale in SCALES:
            for name, each in estimate(scored(records, scale, text)).items():
                found.setdefault(name, {})[scale] = each.value
                found.setdefault(f"{name}_low", {})[scale] = each.low
                found.setdefault(f"{name}_high", {})[scale] = each.high
        every |= found if text == FINAL else {text: found}
    return {**every, "begins_at": _begins_at(records)}


def compared(records: Sequence[Record]) -> list[str]:
    """The smaller scales of which enough captions name something to be compared with full size."""
    named = {scale: _counts(records, scale, FINAL)[:, 2] > 0 for scale in SCALES}
    full, *smaller = SCALES
    enough = [scale for scale in smaller if named[scale].sum() >= LEAST_IMAGES]
    return enough if named[full].sum() >= LEAST_IMAGES else []


def scored(records: Sequence[Record], scale: str, text: str) -> Counted:
    """What one kind of text names, as figures for any weighting of the images."""
    return Counted([each["image"] for each in records], _counts(records, scale, text), _ratios)


def _counts(records: Sequence[Record], scale: str, text: str) -> Array:
    """What `_ratios` takes sums of, [N, 6].

    Of each image 1; whether an object is named that is not there; how many are named, and of these
    are not there, and are; how many are there.
    """
    rows = []
    for record in records:
        named, objects = set(record["texts"][scale][text]), set(record["objects"])
        absent, there = len(named - objects), len(named & objects)
        rows.append((1, absent > 0, len(named), absent, there, len(objects)))
    return np.array(rows, np.float64)


def _ratios(sums: Array) -> dict[str, Array]:
    images, invents, named, absent, there, objects = sums.T
    return {
        "chair_s": ratio(invents, images),
        "chair_i": ratio(absent, named),
        "recall": ratio(there, objects),
        "named": ratio(named, images),
    }


def _begins_at(records: Sequence[Record]) -> str | None:
    full = scored(records, "1", FINAL)
    for scale in compared(records):
        if compare([(full, scored(records, scale, FINAL))])["chair_i"].low > 0:
            return scale
    return None
