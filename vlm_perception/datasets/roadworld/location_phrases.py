# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Phrases that ask where something is, and the boxes that answer them, to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.datasets.roadworld.truth import PRESENT_SHARE, ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS

MOST_BOXES = 4
"""Of the objects that a phrase means, the largest so many are written."""
_LIGHTS = tuple(label for label in OBJECT_LABELS if label.endswith("traffic light"))
_OTHER_NAMES = {
    "truck": ("lorry",),
    "motorcycle": ("motorbike", "motorcyclist"),
    "bicycle": ("bike", "cyclist"),
    "pedestrian": ("person", "walker"),
    "speed-limit sign": ("speed sign",),
    "cone": ("traffic cone",),
    "crosswalk": ("pedestrian crossing", "zebra crossing"),
}
_OTHER_NAME, _BY_PLACE, _BY_COLOUR = 0.2, 3, 2


@dataclass(frozen=True)
class Asked:
    """A phrase, and the objects that it means; none where there is no such thing."""

    phrase: str
    name: str
    """Of their kind, as it is written beside a box."""
    objects: tuple[ObjectTruth, ...]
    """The largest first."""


@dataclass(frozen=True)
class Place:
    """A rule of place, in all its wordings."""

    words: tuple[str, ...]
    chosen: Callable[[Sequence[ObjectTruth], int], Iterable[ObjectTruth]]
    """Of objects of one kind, which are meant; the second argument is the image's width."""


def _middle(thing: ObjectTruth) -> float:
    return thing.box[0] + thing.box[2] / 2


def _between(low: float, high: float) -> Callable[[Sequence[ObjectTruth], int], list[ObjectTruth]]:
    return lambda things, width: [o for o in things if low <= _middle(o) / width < high]


def _first(key: Callable[[ObjectTruth], float]) -> Callable[..., list[ObjectTruth]]:
    return lambda things, width: [min(things, key=key)] if things else []


SIDES = (
    Place(("{} on the left", "{} on the left side", "left {}", "{} to the left"), _between(0, 0.5)),
    Place(
        ("{} on the right", "{} on the right side", "right {}", "{} to the right"), _between(0.5, 1)
    ),
    Place(("{} in the middle", "{} in the centre", "middle {}"), _between(1 / 3, 2 / 3)),
)
FIRST = (
    Place(("leftmost {}",), _first(_middle)),
    Place(("rightmost {}",), _first(lambda o: -_middle(o))),
    Place(("nearest {}", "closest {}"), _first(lambda o: o.distance)),
    Place(("farthest {}", "furthest {}"), _first(lambda o: -o.distance)),
    Place(("largest {}", "biggest {}"), _first(lambda o: -o.share)),
    Place(("smallest {}",), _first(lambda o: o.share)),
)
_PLACES = SIDES + FIRST


def ask(truth: SceneTruth, width: int, rng: np.random.Generator) -> list[Asked]:
    """Phrases by label, by colour and by place, in random order.

    A kind of thing of which only specks are seen is not asked for: it is neither there nor not.

    Args:
        truth: of a scene.
        width: of the image in pixels.
        rng: draws phrases and wordings.
    """
    kinds = {label: (label,) for label in OBJECT_LABELS} | {"traffic light": _LIGHTS}
    seen = {
        name: [o for o in truth.objects if o.label in labels and o.share >= PRESENT_SHARE]
        for name, labels in kinds.items()
    }
    specks = {
        name
        for name, labels in kinds.items()
        if not seen[name] and any(o.label in labels for o in truth.objects)
    }
    present = [name for name in kinds if seen[name]]
    absent = [name for name in kinds if not seen[name] and name not in specks]
    asked = [_asked(_article(_called(name, rng), rng), name, seen[name]) for name in present]
    asked += [
        _asked(_article(_called(name, rng), rng), name, ())
        for name in _some(absent, len(present) // 4 + 1, rng)
    ]
    asked += [
        _by_place(name, seen[name], width, rng) for name in _some(present * 2, _BY_PLACE, rng)
    ]
    coloured = [name for name in present if any(o.colour for o in seen[name])]
    colours = sorted({o.colour for name in coloured for o in seen[name] if o.colour})
    asked += [
        _by_colour(name, seen[name], colours, rng) for name in _some(coloured * 2, _BY_COLOUR, rng)
    ]
    unique = list({one.phrase: one for one in asked}.values())
    return [unique[i] for i in rng.permutation(len(unique))]


def _some(names: list[str], count: int, rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _called(name: str, rng: np.random.Generator) -> str:
    if name in _OTHER_NAMES and rng.random() < _OTHER_NAME:
        return str(rng.choice(_OTHER_NAMES[name]))
    return name


def _article(phrase: str, rng: np.random.Generator) -> str:
    return str(rng.choice(("", "", "the ", "a "))) + phrase


def _asked(phrase: str, name: str, objects: Iterable[ObjectTruth]) -> Asked:
    largest = sorted(objects, key=lambda o: -o.share)[:MOST_BOXES]
    return Asked(phrase, name, tuple(largest))


def _by_place(name: str, things: list[ObjectTruth], width: int, rng: np.random.Generator) -> Asked:
    place = _PLACES[int(rng.integers(len(_PLACES)))]
    phrase = str(rng.choice(place.words)).format(_called(name, rng))
    article = str(rng.choice(("", "the ")))
    return _asked(article + phrase, name, place.chosen(things, width))


def _by_colour(
    name: str, things: list[ObjectTruth], colours: list[str], rng: np.random.Generator
) -> Asked:
    own = [o.colour for o in things if o.colour]
    colour = str(rng.choice(own if rng.random() < 0.8 else colours))
    phrase = _article(f"{colour} {_called(name, rng)}", rng)
    return _asked(phrase, name, [o for o in things if o.colour == colour])
