# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A phrase means what it says, and what is not there has no box."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.streets import PROPERTY, WIDTH, streets

from vlm_perception.datasets.roadworld.location_phrases import MOST_BOXES, Asked, ask
from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS

COLOURS = ("red", "blue", "")
things = st.builds(
    ObjectTruth,
    st.sampled_from(OBJECT_LABELS[:3] + OBJECT_LABELS[6:8]),
    st.tuples(st.integers(0, 90), st.just(5), st.integers(1, 10), st.just(7)),
    st.floats(PRESENT_SHARE / 2, 0.1),
    st.just(1.0),
    st.floats(3, 80),
    st.floats(-6, 6),
    st.sampled_from(COLOURS),
)
scenes = st.builds(SceneTruth, st.lists(things, max_size=8).map(tuple), st.just({}), st.just({}))


def centre(thing: ObjectTruth) -> float:
    return thing.box[0] + thing.box[2] / 2


def meant(asked: Asked, truth: SceneTruth) -> list[ObjectTruth]:
    """What a phrase of plain words means, read from the phrase alone."""
    kind = [o for o in truth.objects if o.label.endswith(asked.name) and o.share >= PRESENT_SHARE]
    best = {
        "leftmost": centre,
        "rightmost": lambda o: -centre(o),
        "nearest": lambda o: o.distance,
        "closest": lambda o: o.distance,
        "farthest": lambda o: -o.distance,
        "furthest": lambda o: -o.distance,
        "largest": lambda o: -o.share,
        "biggest": lambda o: -o.share,
        "smallest": lambda o: o.share,
    }
    parts = {
        "left": lambda o: centre(o) < 50,
        "right": lambda o: centre(o) >= 50,
        "middle": lambda o: 100 / 3 <= centre(o) < 200 / 3,
        "centre": lambda o: 100 / 3 <= centre(o) < 200 / 3,
        "red": lambda o: o.colour == "red",
        "blue": lambda o: o.colour == "blue",
    }
    words = asked.phrase
    if asked.name.endswith("traffic light"):
        words = words.replace(asked.name, "")
    for word in words.split():
        if word in best:
            kind = sorted(kind, key=best[word])[:1]
        elif word in parts:
            kind = [o for o in kind if parts[word](o)]
    return sorted(kind, key=lambda o: -o.share)[:MOST_BOXES]


@PROPERTY
@given(scenes, st.integers(0, 2**31))
def test_a_phrase_is_answered_with_what_it_means(truth: SceneTruth, seed: int) -> None:
    asked = ask(truth, 100, np.random.default_rng(seed))
    assert len({one.phrase for one in asked}) == len(asked)
    for one in asked:
        assert [o.share for o in one.objects] == [o.share for o in meant(one, truth)]


def test_a_street_is_asked_for_what_it_has_and_for_what_it_has_not() -> None:
    rng = np.random.default_rng(0)
    asked = [one for street in streets(40) for one in ask(street.truth, WIDTH, rng)]
    empty = [one for one in asked if not one.objects]
    assert 0.1 < len(empty) / len(asked) < 0.35
    assert {one.name for one in asked if one.objects} == {*OBJECT_LABELS, "traffic light"}
    assert {one.name for one in empty} >= set(OBJECT_LABELS[:6])
