# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images with captions from which an encoder learns all words, and half of their combinations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np

from vlm_perception.datasets.roadworld.heroes.classes import (
    BETWEEN,
    CLOTHES_NAMES,
    KINDS,
    MIDDLE,
    PAINT_NAMES,
    HeroTask,
    Look,
    sky_part,
    sky_words,
    street_words,
    tasks,
)
from vlm_perception.datasets.roadworld.world import LIGHT_STATES, TIMES_OF_DAY, WEATHERS

STREETS = 0.15
"""Share of the images that show a street as a whole."""
_FORMS = ("{}", "a {}", "a photo of a {}")

Rng = np.random.Generator
T = TypeVar("T")


def training_look(rng: Rng) -> Look:
    """What a training image shows: no combination that is kept for the exam."""
    skies = [sky for sky in product(TIMES_OF_DAY, WEATHERS) if sky_part(*sky) == "seen"]
    when, weather = _one(skies, rng)
    by_name = {task.name: task for task in tasks()}
    if rng.random() < STREETS:
        seen = _one(_seen(by_name["road-traffic"]), rng)
        return Look(time_of_day=when, weather=weather, road=seen.road, traffic=seen.traffic)
    kind = _one(KINDS, rng)
    paints = [
        look.paint
        for name in ("paint-vehicle", "clothes")
        for look in _seen(by_name[name])
        if look.kind == kind
    ]
    return Look(
        kind,
        _one(paints, rng) if paints else "",
        _one([MIDDLE, *_values(by_name["kind-side"], kind, "side")], rng),
        _one([BETWEEN, *_values(by_name["kind-distance"], kind, "band")], rng),
        _one(LIGHT_STATES, rng) if kind == "traffic light" else "",
        when,
        weather,
    )


def captions(look: Look) -> list[str]:
    """All that is said of such images: in a batch, what is said of another and true is no rival."""
    sky = sky_words(look.time_of_day, look.weather)
    if look.kind:
        side = "" if look.side == MIDDLE else f" on the {look.side}"
        band = "" if look.band == BETWEEN else f" {look.band}"
        names = dict.fromkeys((_thing(look), look.kind))
        shown = [f"{a}{b}" for a, b in product(names, dict.fromkeys(("", side, band, side + band)))]
    else:
        shown = [street_words(look.road, look.traffic)]
    said = [*shown, *(f"{each} on a {sky}" for each in shown), sky]
    return [form.format(each) for form, each in product(_FORMS, said)]


def _thing(look: Look) -> str:
    if look.state:
        return f"{look.state} {look.kind}"
    if look.paint in CLOTHES_NAMES and look.kind == "pedestrian":
        return f"{look.kind} in {look.paint}"
    return f"{look.paint} {look.kind}" if look.paint in PAINT_NAMES else look.kind


def _seen(task: HeroTask) -> list[Look]:
    return [each.look for each in task.classes if each.part == "seen"]


def _values(task: HeroTask, kind: str, name: str) -> list[str]:
    return [getattr(look, name) for look in _seen(task) if look.kind == kind]


def _one(values: Sequence[T], rng: Rng) -> T:
    return values[int(rng.integers(len(values)))]
