# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases about a scene of the road world, with the objects that they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.datasets.roadworld.location_phrases import FIRST, SIDES, Place
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
    for side in SIDES:
        meant, near = tuple(side.chosen(present, width)), tuple(side.chosen(specks, width))
        if meant and len(meant) < len(present):
            sides.append(Asked(_said(side, label), PLACE, label, meant, near, rivals=True))
    if sides:
        yield sides[int(rng.integers(len(sides)))]
    first = FIRST[int(rng.integers(len(FIRST)))]
    meant = tuple(first.chosen(present, width))
    yield Asked(_said(first, label), PLACE, label, meant, rivals=True)


def _said(place: Place, label: str) -> str:
    return f"the {place.words[0].format(label)}"
