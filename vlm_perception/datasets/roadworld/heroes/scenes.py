# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes that show what a class says: one large object, or a street."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from vlm_perception.datasets.roadworld import assets
from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance
from vlm_perception.datasets.roadworld.heroes.classes import (
    BANDS,
    BETWEEN,
    CLOTHES_NAMES,
    MIDDLE,
    PAINT_NAMES,
    Look,
    sky_part,
)
from vlm_perception.datasets.roadworld.sampling import distance_of_share, sample_scene
from vlm_perception.datasets.roadworld.streets import Street, look
from vlm_perception.datasets.roadworld.truth import road_kind
from vlm_perception.datasets.roadworld.world import (
    LIGHT_STATES,
    TIMES_OF_DAY,
    VEHICLES,
    WEATHERS,
    Actor,
    World,
)

SHARE = 0.05
"""Of the image, that an object covers at least."""
LARGEST = 0.3
SHARES = {**BANDS, BETWEEN: (BANDS["further away"][1], BANDS["close"][0])}
NEAREST_M = 1.0
ASIDE = {"": (-0.3, 0.3), "left": (0.08, 0.3), "right": (-0.3, -0.08), MIDDLE: (-0.06, 0.06)}
"""How far left of the middle, relative to the distance, an object stands."""
OTHER_CAMERA = Appearance(1.0)
LOOKED_AT = 0.55
AIMED_AT = dict.fromkeys(
    (*(f"{state} traffic light" for state in LIGHT_STATES), "stop sign", "speed-limit sign"), 0.8
)
"""Where the camera looks, of an object's height: at a sign, not at its pole."""
CORRECTIONS = 2
SKETCH = (160, 90)
WHOLE = 0.7
"""Share of an object that is visible at least."""
LEFT_OF = 0.42
"""Of the image's width, where the centre of an object on the left is at most."""
TRIES = 2000


def hero_street(wanted: Look, seed: int, size: tuple[int, int]) -> Street:
    """A scene that shows what is wanted; the same seed gives the same scene.

    Args:
        wanted: what it shows.
        seed: of the scene.
        size: width and height of the image in pixels.
    """
    appearance = OTHER_CAMERA if wanted.camera else PLAIN
    for world in _worlds(wanted, seed):
        street = look(world, size, appearance=appearance)
        if _shows(street, wanted):
            return street
    raise AssertionError(f"no scene of {TRIES} shows {wanted}; seed {seed}")


def _worlds(wanted: Look, seed: int) -> Iterator[World]:
    for number in range(TRIES):
        rng = np.random.default_rng((seed, 31, number))
        world = _under_sky(sample_scene(int(rng.integers(1 << 40))), wanted, rng)
        if wanted.kind:
            yield _with_hero(world, wanted, rng)
        elif wanted.road in ("", road_kind(world, 0.0)):
            empty = wanted.traffic == "none"
            actors = [each for each in world.actors if not (empty and each.label in VEHICLES)]
            yield replace(world, actors=actors)


def _under_sky(world: World, wanted: Look, rng: np.random.Generator) -> World:
    """The street in one of the weathers and at one of the times of day that are learned from."""
    skies = [
        (when, weather)
        for when, weather in product(TIMES_OF_DAY, WEATHERS)
        if wanted.time_of_day in ("", when) and wanted.weather in ("", weather)
    ]
    seen = [sky for sky in skies if sky_part(*sky) == "seen"]
    when, weather = (seen or skies)[int(rng.integers(len(seen or skies)))]
    return replace(world, time_of_day=when, weather=weather)


def _with_hero(world: World, wanted: Look, rng: np.random.Generator) -> World:
    """The street without its labelled objects, and with one that is near."""
    low, high = SHARES.get(wanted.band, (SHARE, LARGEST))
    share = float(np.exp(rng.uniform(np.log(1.05 * low), np.log(0.95 * high))))
    distance = distance_of_share(wanted.kind, share)
    aside = float(rng.uniform(*ASIDE[wanted.side]))
    hero = _actor(wanted, float(rng.uniform(-np.pi, np.pi)), rng)
    street = replace(
        world,
        actors=[actor for actor in world.actors if not actor.label],
        road=replace(world.road, crosswalks=()),
    )
    for _ in range(CORRECTIONS):
        # Its build, and the side that it turns to the camera, make it larger or smaller.
        seen = look(_placed(street, hero, distance, aside), SKETCH).truth.objects
        found = seen[0].share if seen else share / 4.0
        distance = max(NEAREST_M, distance * float(np.sqrt(found / share)))
    return _placed(street, hero, distance, aside)


def _placed(world: World, hero: Actor, distance: float, aside: float) -> World:
    """The street with an object, and a camera that looks at it, from low if it is low."""
    top = float(hero.mesh.packed.vertices[:, 2].max())
    eye = AIMED_AT.get(hero.label, LOOKED_AT) * top
    height = min(world.mount_height, 1.2 * top)
    pitch = -float(np.arctan2(eye - height, distance))
    placed = replace(hero, s=distance, d=world.road.ego_offset + distance * aside)
    actors = [*world.actors, placed]
    return replace(world, actors=actors, mount_height=height, mount_pitch=pitch)


def _actor(wanted: Look, yaw: float, rng: np.random.Generator) -> Actor:
    if wanted.kind == "traffic light":
        state = wanted.state or LIGHT_STATES[int(rng.integers(len(LIGHT_STATES)))]
        mesh = assets.traffic_light(rng, state)
        return Actor(f"{state} traffic light", mesh, 0.0, 0.0)
    names = CLOTHES_NAMES if wanted.kind == "pedestrian" else PAINT_NAMES
    if wanted.kind in assets.PAINTED and wanted.paint:
        mesh = assets.PAINTED[wanted.kind](rng, names[wanted.paint])
    else:
        mesh = assets.BUILDERS[wanted.kind](rng)
    return Actor(wanted.kind, mesh, 0.0, 0.0, yaw)


def _shows(street: Street, wanted: Look) -> bool:
    """Whether what was drawn is what is wanted: it may be hidden, too small, or elsewhere."""
    truth = street.truth
    if not wanted.kind:
        asked = {"road": wanted.road, "traffic": wanted.traffic}
        return all(not value or truth.attributes[name] == value for name, value in asked.items())
    if len(truth.objects) != 1:
        return False
    (hero,) = truth.objects
    low, high = SHARES.get(wanted.band, (SHARE, 1.0))
    middle = (hero.box[0] + hero.box[2] / 2) / street.image.shape[1]
    left, right = middle < LEFT_OF, middle > 1.0 - LEFT_OF
    beside = {"": True, "left": left, "right": right, MIDDLE: not (left or right)}
    return low <= hero.share <= high and hero.visible_share > WHOLE and beside[wanted.side]
