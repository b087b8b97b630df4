# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases about a scene of the road world, with the objects that they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS

LABEL, COLOUR, PLACE, ABSENT = "label", "label + colour", "label + place", "absent label"
KINDS = (LABEL, COLOUR, PLACE)
MANY_COLOURED = ("car", "truck", "bus", "motorcycle", "pedestrian", "barrier")
"""Labels whose objects come in several colours."""
ABSENT_ASKED = 3
"""Labels asked of each scene that are not in it."""


@dataclass(frozen=True)
class Asked:
    """A phrase and what it means."""

    phrase: str
    kind: str
    label: str
    meant: tuple[ObjectTruth, ...]
    """The largest first; none for an absent label."""
    specks: tuple[ObjectTruth, ...] = ()
    """Objects too small to be asked for that a box may hit all the same."""
    rivals: bool = False
    """Whether there are objects of the label that the phrase does not mean."""

    @property
    def share(self) -> float:
        """Of the image, that the largest object covers."""
        return self.meant[0].share


def _middle(thing: ObjectTruth) -> float:
    return thing.box[0] + thing.box[2] / 2


_SIDES: tuple[tuple[str, float, float], ...] = (
    ("the {} on the left", 0.0, 0.5),
    ("the {} on the right", 0.5, 1.0),
    ("the {} in the middle", 1 / 3, 2 / 3),
)
_FIRST: tuple[tuple[str, Callable[[ObjectTruth], float]], ...] = (
    ("the leftmost {}", _middle),
    ("the rightmost {}", lambda thing: -_middle(thing)),
    ("the nearest {}", lambda thing: thing.distance),
    ("the farthest {}", lambda thing: -thing.distance),
    ("the largest {}", lambda thing: -thing.share),
    ("the smallest {}", lambda thing: thing.share),
)


def ask(truth: SceneTruth, width: int, rng: np.random.Generator) -> list[Asked]:
    """Every label that is present, every colour of one, a place where there are several, absentees.

    Args:
        truth: of the scene.
        width: of the image, in pixels.
        rng: draws places and absent labels.
    """
    asked = []
    absent = []
    for label in OBJECT_LABELS:
        things = sorted((o for o in truth.objects if o.label == label), key=lambda o: -o.share)
        present = tuple(o for o in things if o.share >= PRESENT_SHARE)
        specks = tuple(things[len(present) :])
        if present:
            asked.append(Asked(f"the {label}", LABEL, label, present, specks))
            asked += _by_colour(label, present, specks)
            asked += _by_place(label, present, specks, width, rng)
        elif not specks:
            absent.append(label)
    drawn = [absent[index] for index in rng.permutation(len(absent))[:ABSENT_ASKED]]
    return [*asked, *(Asked(f"the {label}", ABSENT, label, ()) for label in drawn)]


def _by_colour(
    label: str, present: Sequence[ObjectTruth], specks: Sequence[ObjectTruth]
) -> Iterator[Asked]:
    if label not in MANY_COLOURED:
        return
    for colour in sorted({o.colour for o in present} - {""}):
        meant = tuple(o for o in present if o.colour == colour)
        alike = tuple(o for o in specks if o.colour == colour)
        rivals = len(meant) < len(present)
        yield Asked(f"the {colour} {label}", COLOUR, label, meant, alike, rivals)


def _by_place(
    label: str,
    present: Sequence[ObjectTruth],
    specks: Sequence[ObjectTruth],
    width: int,
    rng: np.random.Generator,
) -> Iterator[Asked]:
    """One side and one superlative, where there are several objects and not all are meant."""
    if len(present) < 2:
        return
    sides = []
    for words, low, high in _SIDES:
        meant = tuple(o for o in present if low <= _middle(o) / width < high)
        near = tuple(o for o in specks if low <= _middle(o) / width < high)
        if meant and len(meant) < len(present):
            sides.append(Asked(words.format(label), PLACE, label, meant, near, rivals=True))
    if sides:
        yield sides[int(rng.integers(len(sides)))]
    words, key = _FIRST[int(rng.integers(len(_FIRST)))]
    yield Asked(words.format(label), PLACE, label, (min(present, key=key),), rivals=True)
