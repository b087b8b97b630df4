# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`evaluate thresholds`: thresholds are judged on images that they were not set on."""

from __future__ import annotations

import math

import numpy as np

from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.tags.evaluate import draws, figures_of, otsu
from vlm_perception.perception.vision.tag_thresholds import find_cut


def test_scores_that_are_apart_are_parted_and_others_are_not() -> None:
    rng = np.random.default_rng(3)
    present = rng.random((2400, len(LABELS))) < 0.15
    noise = rng.normal(size=present.shape)
    apart = (noise + 9.0 * present).astype(np.float32)
    clear = list(draws(apart, present, 0.1, 1, find_cut))
    assert len(clear) == len(LABELS)
    for each in clear:
        assert each.f1 > 0.95 and each.false_alarms < 0.02
        # What a threshold was set on takes no part: 720 of some 2040 without the label.
        assert abs(each.absent - 1320) < 80
    figures = figures_of(clear)
    low, high = (figures[f"false_alarms_worst_label_{end}"] for end in ("low", "high"))
    assert 0.0 <= low <= figures["false_alarms_worst_label"] <= high < 0.03
    blind = figures_of(list(draws(noise.astype(np.float32), present, 0.0, 1, find_cut)))
    assert blind["false_alarms_worst_label"] < 0.02 and math.isnan(blind["f1_over_best"])
    halves = figures_of(list(draws(noise.astype(np.float32), present, 0.0, 1, otsu)))
    assert halves["false_alarms"] > 0.3
