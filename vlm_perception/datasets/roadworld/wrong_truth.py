# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is nearly true of a scene: one thing is wrong, and a caption of it is hard to tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS, WEATHERS

Rng = np.random.Generator


def with_fault(truth: SceneTruth, kind: str, rng: Rng) -> SceneTruth | None:
    """The scene as someone would have it who is wrong about one thing.

    Args:
        truth: of the scene.
        kind: one of FAULTS.
        rng: chooses what is wrong.

    Returns:
        None where the scene has nothing that could be wrong so.
    """
    return FAULTS[kind](truth, rng)


def _added(truth: SceneTruth, rng: Rng) -> SceneTruth | None:
    """An object that cannot be seen, not even a little."""
    absent = _absent(truth)
    if not absent:
        return None
    added = ObjectTruth(_one(absent, rng), (0, 0, 1, 1), PRESENT_SHARE, 1.0, 10.0, 0.0)
    return _with_objects(truth, [*truth.objects, added])


def _removed(truth: SceneTruth, rng: Rng) -> SceneTruth | None:
    """A kind of object is not mentioned."""
    there = _there(truth)
    if not there:
        return None
    label = _one(there, rng)
    return _with_objects(truth, [each for each in truth.objects if each.label != label])


def _swapped(truth: SceneTruth, rng: Rng) -> SceneTruth | None:
    """A kind of object is taken for another."""
    there, absent = _there(truth), _absent(truth)
    if not there or not absent:
        return None
    label, other = _one(there, rng), _one(absent, rng)
    return _with_objects(
        truth,
        [replace(each, label=other) if each.label == label else each for each in truth.objects],
    )


def _count(truth: SceneTruth, rng: Rng) -> SceneTruth | None:
    """One is taken for several, or several for one."""
    there = _there(truth)
    if not there:
        return None
    label = _one(there, rng)
    seen = [each for each in truth.objects if each.label == label and each.share >= PRESENT_SHARE]
    rest = [each for each in truth.objects if each.label != label]
    return _with_objects(truth, [*rest, *(seen * 2 if len(seen) == 1 else seen[:1])])


def _weather(truth: SceneTruth, rng: Rng) -> SceneTruth | None:
    true = truth.attributes["weather"]
    weather = _one([each for each in WEATHERS if each != true], rng)
    shares = {label: share for label, share in truth.shares.items() if label not in WEATHERS}
    if weather != "clear":
        shares[weather] = 1.0
    return replace(truth, shares=shares, attributes={**truth.attributes, "weather": weather})


FAULTS: dict[str, Callable[[SceneTruth, Rng], SceneTruth | None]] = {
    "added": _added,
    "removed": _removed,
    "swapped": _swapped,
    "count": _count,
    "weather": _weather,
}
"""Kinds of faults."""


def _one(labels: Sequence[str], rng: Rng) -> str:
    return labels[int(rng.integers(len(labels)))]


def _there(truth: SceneTruth) -> list[str]:
    return [label for label in OBJECT_LABELS if label in truth.shares]


def _absent(truth: SceneTruth) -> list[str]:
    seen = {each.label for each in truth.objects}
    return [label for label in OBJECT_LABELS if label not in seen]


def _with_objects(truth: SceneTruth, objects: Sequence[ObjectTruth]) -> SceneTruth:
    shares = {label: share for label, share in truth.shares.items() if label not in OBJECT_LABELS}
    for each in objects:
        if each.share >= PRESENT_SHARE:
            shares[each.label] = max(each.share, shares.get(each.label, 0.0))
    return replace(truth, objects=tuple(objects), shares=shares)
