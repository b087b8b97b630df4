# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A wrong caption differs from the right one in one thing."""

from __future__ import annotations

import numpy as np
import pytest
from support.streets import streets

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, captions, object_labels_in
from vlm_perception.datasets.roadworld.wrong_truth import FAULTS, with_fault

LABELS_MORE_AND_FEWER = {
    "added": (1, 0),
    "removed": (0, 1),
    "swapped": (1, 1),
    "count": (0, 0),
    "weather": (0, 0),
}


def seen(truth, seed):
    return captions(truth, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", FAULTS)
def test_one_thing_is_wrong_in_every_wording(kind):
    found = 0
    for seed, street in enumerate(streets(12)):
        wrong = with_fault(street.truth, kind, np.random.default_rng(seed))
        if wrong is None:
            assert not any(each.share >= PRESENT_SHARE for each in street.truth.objects)
            continue
        found += 1
        for right, other in zip(seen(street.truth, seed), seen(wrong, seed), strict=True):
            before, after = object_labels_in(right), object_labels_in(other)
            assert (len(after - before), len(before - after)) == LABELS_MORE_AND_FEWER[kind]
            assert right != other
            assert ("several" in right) + ("several" in other) > 0 or kind != "count"
        hidden = {each.label for each in street.truth.objects}
        assert not (set(wrong.labels) - set(street.truth.labels)) & hidden
        assert (wrong.attributes != street.truth.attributes) == (kind == "weather")
    assert found >= 10
