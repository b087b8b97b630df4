# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The classes of the exam of adapted prompts: combinations of words, of which half are never seen.

A model can only understand a combination that it has never seen if it knows each word. So every
word is in classes that are learned from, and half of the combinations in none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from vlm_perception.datasets.roadworld.assets import CLOTHES, PAINTS
from vlm_perception.datasets.roadworld.mesh import Colour
from vlm_perception.datasets.roadworld.world import LIGHT_STATES, ROADS, TIMES_OF_DAY, WEATHERS

Part = Literal["seen", "validation", "exam"]

PAINT_NAMES: dict[str, Colour] = dict(
    zip(
        (
            *("white", "silver", "grey", "black", "red", "blue", "green", "beige", "orange"),
            *("slate", "brown", "teal"),
        ),
        PAINTS,
        strict=True,
    )
)
CLOTHES_NAMES: dict[str, Colour] = dict(
    zip(
        ("red", "blue", "white", "black", "green", "yellow", "purple", "grey", "pink", "brown"),
        CLOTHES,
        strict=True,
    )
)
RIDDEN = ("car", "truck", "bus", "motorcycle", "bicycle")
PLACED = (*RIDDEN, "pedestrian", "cone", "barrier")
KINDS = (*PLACED, "traffic light", "stop sign", "speed-limit sign")
SIDES = ("left", "right")
BANDS = {"close": (0.14, 0.28), "further away": (0.05, 0.08)}
"""By their names, the shares of the image that the object covers."""
MIDDLE, BETWEEN = "middle", "between"
"""Where, and how far, an object may be whose other side or distance is kept from training."""
TRAFFIC = ("none", "light", "heavy")
_SKIES = {"clear": "clear", "rain": "rainy", "fog": "foggy"}
_WAYS = {"straight": "straight road", "curve": "curve", "intersection": "intersection"}
_LOADS = {"none": "no traffic", "light": "light traffic", "heavy": "heavy traffic"}


@dataclass(frozen=True)
class Look:
    """What an image of a class shows; what is empty may be anything."""

    kind: str = ""
    """One of KINDS; empty: there is no single object."""
    paint: str = ""
    side: str = ""
    band: str = ""
    state: str = ""
    """Of a traffic light."""
    time_of_day: str = ""
    weather: str = ""
    road: str = ""
    traffic: str = ""
    camera: bool = False
    """Whether another camera sees it, in another street."""


@dataclass(frozen=True)
class HeroClass:
    """A class of a task."""

    name: str
    look: Look
    part: Part
    """`seen` by the encoder, or kept from it: to choose by, or to examine."""


@dataclass(frozen=True)
class HeroTask:
    """Classes that are told apart."""

    name: str
    classes: tuple[HeroClass, ...]
    control: bool = False
    """Whether the names are those of another task, so that adapting to them can win nothing."""

    def names(self, part: Part) -> tuple[str, ...]:
        """Its classes of one part."""
        return tuple(each.name for each in self.classes if each.part == part)


def tasks() -> tuple[HeroTask, ...]:
    """All tasks, the source of prompts first."""
    skies = tuple(product(WEATHERS, TIMES_OF_DAY))
    return (
        HeroTask("paint-vehicle", _painted(Look())),
        HeroTask(
            "clothes",
            tuple(
                HeroClass(f"pedestrian in {each}", Look("pedestrian", each), _part(number, 0))
                for number, each in enumerate(CLOTHES_NAMES)
            ),
        ),
        HeroTask("kind", _all_seen({each: Look(each) for each in KINDS})),
        HeroTask("kind-side", _pairs(PLACED, SIDES, "{} on the {}", _at_side)),
        HeroTask("kind-distance", _pairs(PLACED, tuple(BANDS), "{} {}", _at_distance)),
        HeroTask(
            "light",
            _all_seen(
                {
                    f"{each} traffic light": Look("traffic light", state=each)
                    for each in LIGHT_STATES
                }
            ),
        ),
        HeroTask(
            "sign", _all_seen({each: Look(each) for each in ("stop sign", "speed-limit sign")})
        ),
        HeroTask(
            "weather-time",
            tuple(
                HeroClass(
                    sky_words(when, weather),
                    Look(time_of_day=when, weather=weather),
                    sky_part(when, weather),
                )
                for weather, when in skies
            ),
        ),
        HeroTask(
            "road-traffic",
            tuple(
                HeroClass(
                    street_words(road, load),
                    Look(road=road, traffic=load),
                    _part(row, column),
                )
                for (row, road), (column, load) in product(enumerate(ROADS), enumerate(TRAFFIC))
            ),
        ),
        HeroTask("paint-vehicle-night", _painted(Look(time_of_day="night")), control=True),
        HeroTask("paint-vehicle-camera", _painted(Look(camera=True)), control=True),
    )


def digest(all_tasks: Sequence[HeroTask]) -> str:
    """SHA-256 of the names of all classes and of the parts that they are in."""
    told = [
        [task.name, task.control, [[each.name, each.part] for each in task.classes]]
        for task in all_tasks
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def sky_words(time_of_day: str, weather: str) -> str:
    """Name of a weather at a time of day."""
    return f"{_SKIES[weather]} {time_of_day}"


def street_words(road: str, traffic: str) -> str:
    """Name of a kind of road with so much traffic."""
    return f"{_WAYS[road]} with {_LOADS[traffic]}"


def sky_part(time_of_day: str, weather: str) -> Part:
    """Which part a weather at a time of day is in: no other is learned from."""
    return _part(WEATHERS.index(weather), TIMES_OF_DAY.index(time_of_day), validation=False)


def _part(row: int, column: int, *, validation: bool = True) -> Part:
    """Every other combination, as on a chessboard; a third of the rest is to choose by."""
    if (row + column) % 2 == 0:
        return "seen"
    return "validation" if validation and (row // 2 + column) % 3 == 0 else "exam"


def _painted(look: Look) -> tuple[HeroClass, ...]:
    return tuple(
        HeroClass(
            f"{paint} {kind}",
            Look(kind, paint, time_of_day=look.time_of_day, camera=look.camera),
            _part(row, column),
        )
        for (row, paint), (column, kind) in product(enumerate(PAINT_NAMES), enumerate(RIDDEN))
    )


def _all_seen(looks: dict[str, Look]) -> tuple[HeroClass, ...]:
    return tuple(HeroClass(name, look, "seen") for name, look in looks.items())


def _pairs(
    rows: Sequence[str],
    columns: Sequence[str],
    words: str,
    look: Callable[[str, str], Look],
) -> tuple[HeroClass, ...]:
    return tuple(
        HeroClass(words.format(row, column), look(row, column), _part(number, place))
        for (number, row), (place, column) in product(enumerate(rows), enumerate(columns))
    )


def _at_side(kind: str, side: str) -> Look:
    return Look(kind, side=side)


def _at_distance(kind: str, band: str) -> Look:
    return Look(kind, band=band)
