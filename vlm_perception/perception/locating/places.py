# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which of several boxes a word of place means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vlm_perception.perception.locating.phrase import Place

Box = tuple[float, float, float, float]
"""x, y, width, height."""
T = TypeVar("T")

NEAR = 0.1
"""A thing may be this share of the width beside its part of the image, if none is within."""
_SIDES: dict[Place, tuple[float, float]] = {
    Place.LEFT: (0.0, 0.5),
    Place.MIDDLE: (1 / 3, 2 / 3),
    Place.RIGHT: (0.5, 1.0),
}
"""The part of the image's width that the centre must lie in."""
_FIRST: dict[Place, Callable[[Box], float]] = {
    Place.LEFTMOST: lambda box: box[0] + box[2] / 2,
    Place.RIGHTMOST: lambda box: -(box[0] + box[2] / 2),
    # Of one kind, what is nearer is taller; where it stands shows only with things on the ground.
    Place.NEAREST: lambda box: -box[3],
    Place.FARTHEST: lambda box: box[3],
    Place.LARGEST: lambda box: -box[2] * box[3],
    Place.SMALLEST: lambda box: box[2] * box[3],
}
SUPERLATIVES = frozenset(_FIRST)


def at_place(
    things: Sequence[T], box: Callable[[T], Box], place: Place | None, image_width: float
) -> list[T]:
    """The things that a word of place means, in their order; a superlative means one at most.

    Args:
        things: what was found, the likeliest first.
        box: the box of a thing.
        place: where it is said to be; None: anywhere.
        image_width: in the unit of the boxes.
    """
    if place is None or not things:
        return list(things)
    if place in _FIRST:
        key = _FIRST[place]
        return [min(things, key=lambda thing: key(box(thing)))]
    low, high = _SIDES[place]
    away = [
        _outside((box(thing)[0] + box(thing)[2] / 2) / image_width, low, high) for thing in things
    ]
    # Where a box is off by a little, the nearest one is meant.
    least = min(away)
    return [thing for thing, far in zip(things, away, strict=True) if far <= least and far < NEAR]


def _outside(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0)
