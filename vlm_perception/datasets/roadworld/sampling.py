# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Streets that are made up from a seed: a single scene, or a drive of some length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from vlm_perception.datasets.roadworld import assets
from vlm_perception.datasets.roadworld.geometry import Camera, Route
from vlm_perception.datasets.roadworld.mesh import Mesh
from vlm_perception.datasets.roadworld.world import (
    CROSSING_HALF_WIDTH,
    LIGHT_STATES,
    ROADS,
    TIMES_OF_DAY,
    VEHICLES,
    WEATHERS,
    Actor,
    Road,
    World,
)

SILHOUETTE_M2 = {
    "car": 2.8,
    "truck": 8.0,
    "bus": 8.0,
    "motorcycle": 1.2,
    "bicycle": 0.9,
    "pedestrian": 0.65,
    "traffic light": 1.0,
    "stop sign": 0.75,
    "speed-limit sign": 0.7,
    "cone": 0.32,
    "barrier": 1.3,
}
_PHASES = {"red": 1.0, "green": 7.0, "yellow": 12.5}
_WIDTH, _HEIGHT = 1280, 720
_FOCAL = Camera(_WIDTH, _HEIGHT, (0, 0, 0), 0, 0).focal


def distance_of_share(label: str, share: float) -> float:
    """Distance in metres at which an object of average build covers `share` of the image."""
    return float(_FOCAL * np.sqrt(SILHOUETTE_M2[label] / (share * _WIDTH * _HEIGHT)))


class _Builder:
    """Places actors on a road without overlap."""

    def __init__(self, seed: int, road: Road, rng: np.random.Generator, small: float = 0.3) -> None:
        self.rng = rng
        self.small = small
        self.road = road
        self.actors: list[Actor] = []
        self._taken: list[tuple[float, float, float]] = []

    def free(self, s: float, d: float, radius: float) -> bool:
        return all((s - a) ** 2 / 4 + (d - b) ** 2 > (radius + r) ** 2 for a, b, r in self._taken)

    def put(
        self,
        label: str,
        s: float,
        d: float,
        *,
        yaw: float = 0.0,
        speed: float = 0.0,
        radius: float = 0.5,
        kind: str = "",
    ) -> bool:
        if not self.free(s, d, radius):
            return False
        self._taken.append((s, d, radius))
        mesh = assets.BUILDERS[kind or label](self.rng)
        self.actors.append(Actor(label, mesh, s, d, yaw, speed))
        return True

    def put_light(self, s: float, d: float, phase: float) -> None:
        build_seed = int(self.rng.integers(1 << 31))
        meshes = {
            state: assets.traffic_light(np.random.default_rng(build_seed), state)
            for state in LIGHT_STATES
        }
        self.actors.append(Actor("traffic light", meshes["red"], s, d, signals=meshes, phase=phase))

    def share(self, largest: float) -> float:
        """Draw the share of the image that an object is to cover."""
        draw = self.rng.random()
        if draw < 0.06:
            low, high = 0.0003, 0.0008
        elif draw < 0.06 + self.small:
            low, high = 0.0013, 0.0048
        else:
            low, high = 0.0052, largest
        return float(np.exp(self.rng.uniform(np.log(low), np.log(max(high, low * 1.1)))))

    def ahead(self, label: str, d: float, largest: float, nearest: float = 5.0) -> float:
        """Draw a distance, far enough for the place to be inside the image."""
        aside = abs(d - self.road.ego_offset) / 0.58
        return max(distance_of_share(label, self.share(largest)), nearest, aside)


@lru_cache(maxsize=256)
def _scenery_mesh(kind: str, variant: int) -> Mesh:
    """Scenery comes from a pool: it has no label, and rebuilding it would cost most."""
    return assets.BUILDERS[kind](np.random.default_rng((97, variant)))


_Placer = Callable[[_Builder], None]


def _vehicles(label: str, most: int) -> _Placer:
    radius = {"car": 1.5, "truck": 2.2, "bus": 2.4, "motorcycle": 0.9}[label]

    def place(b: _Builder) -> None:
        rng, road = b.rng, b.road
        for _ in range(int(rng.integers(1, most + 1))):
            where = rng.random()
            if road.crossings and where < 0.3:
                s = road.crossings[0] + rng.choice((-1.7, 1.7))
                b.put(
                    label,
                    s,
                    float(rng.uniform(-9, 9)),
                    yaw=float(rng.choice((-1, 1)) * np.pi / 2),
                    radius=radius,
                )
                continue
            if where < 0.5:
                d, yaw = road.lane_offset(int(rng.integers(road.lanes)), oncoming=True), np.pi
            elif where < 0.72 and label != "bus":
                side = rng.choice((-1, 1))
                d, yaw = side * (road.half_width + 1.3), 0.0 if side < 0 else np.pi
            elif road.lanes > 1:
                d, yaw = road.lane_offset(int(rng.integers(road.lanes - 1)), oncoming=False), 0.0
            else:
                d, yaw = road.lane_offset(0, oncoming=True), np.pi
            s = b.ahead(label, d, 0.05, nearest=6.5 + radius)
            b.put(label, s, d + rng.normal(0, 0.15), yaw=yaw + rng.normal(0, 0.03), radius=radius)

    return place


def _pedestrians(b: _Builder) -> None:
    rng, road = b.rng, b.road
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.4:
            d = road.ego_offset + rng.uniform(-1.3, 1.3)
        else:
            side = rng.choice((-1.0, 1.0, 1.0)) if road.lanes == 1 else -1.0
            d = side * (road.half_width + rng.uniform(1.0, 3.2))
        b.put("pedestrian", b.ahead("pedestrian", d, 0.025, 6.0), float(d), radius=0.4)


def _cyclists(label: str) -> _Placer:
    def place(b: _Builder) -> None:
        for _ in range(int(b.rng.integers(1, 3))):
            side = b.rng.choice((-1.0, -1.0, 1.0))
            d = side * (b.road.half_width - b.rng.uniform(-1.6, 1.2))
            b.put(label, b.ahead(label, d, 0.03, 6.0), float(d), radius=0.8)

    return place


def _signs(label: str) -> _Placer:
    def place(b: _Builder) -> None:
        for _ in range(int(b.rng.integers(1, 3))):
            side = b.rng.choice((-1.0, -1.0, 1.0))
            d = side * (b.road.half_width + b.rng.uniform(0.4, 1.4))
            b.put(label, b.ahead(label, d, 0.012), float(d), radius=0.4)

    return place


def _lights(b: _Builder) -> None:
    state = LIGHT_STATES[int(b.rng.choice(3, p=(0.36, 0.3, 0.34)))]
    for _ in range(int(b.rng.integers(1, 4))):
        side = b.rng.choice((-1.0, -1.0, 1.0))
        d = float(side * (b.road.half_width + b.rng.uniform(0.2, 1.2)))
        s = b.ahead("traffic light", d, 0.012)
        if b.free(s, d, 0.3):
            b.put_light(s, d, _PHASES[state])


def _cones(b: _Builder) -> None:
    d0 = b.road.ego_offset + b.rng.choice((-1.0, 1.0)) * b.rng.uniform(1.5, 2.4)
    s = b.ahead("cone", float(d0), 0.016, 4.2)
    drift = b.rng.uniform(-0.25, 0.25)
    for i in range(int(b.rng.integers(2, 6))):
        b.put("cone", s + i * 2.0, float(d0 + drift * i), radius=0.3)


def _barriers(b: _Builder) -> None:
    d = float(b.road.ego_offset + b.rng.uniform(-4.0, 4.5))
    s = b.ahead("barrier", d, 0.03, 6.0)
    for i in range(int(b.rng.integers(1, 4))):
        b.put("barrier", s + b.rng.uniform(-0.4, 0.4), d + i * 2.3, radius=0.9)


_CONTENTS: tuple[tuple[float, _Placer], ...] = (
    (0.36, _pedestrians),
    (0.34, _cones),
    (0.34, _barriers),
    (0.30, _vehicles("bus", 1)),
    (0.30, _vehicles("truck", 2)),
    (0.33, _vehicles("motorcycle", 2)),
    (0.35, _cyclists("bicycle")),
    (0.50, _vehicles("car", 4)),
    (0.33, _signs("stop sign")),
    (0.33, _signs("speed-limit sign")),
    (0.68, _lights),
)


def _lead_vehicle(b: _Builder) -> None:
    label = VEHICLES[int(b.rng.choice(4, p=(0.5, 0.2, 0.15, 0.15)))]
    s = b.rng.uniform(7.5, 14.0) if b.rng.random() < 0.5 else b.rng.uniform(20.0, 40.0)
    if label in ("truck", "bus"):
        s += 3.0
    b.put(label, float(s), b.road.ego_offset + float(b.rng.normal(0, 0.2)), radius=1.8)


def _scenery(b: _Builder, start: float, end: float) -> None:
    rng, road = b.rng, b.road
    kind = rng.choice(("city", "suburb", "rural"))
    for side in (-1.0, 1.0):
        s = start + rng.uniform(0, 10)
        while s < end:
            near_crossing = any(abs(s - c) < 12 for c in road.crossings)
            draw = rng.random()
            if not near_crossing and draw < {"city": 0.75, "suburb": 0.35, "rural": 0.05}[kind]:
                d = side * (road.half_width + rng.uniform(10, 15))
                b.actors.append(
                    Actor("", _scenery_mesh("building", int(rng.integers(64))), s + 8, d)
                )
                s += 16
            elif draw < 0.9:
                d = side * (road.half_width + rng.uniform(4.0, 9.0))
                if b.free(s, d, 0.5):
                    b.actors.append(Actor("", _scenery_mesh("tree", int(rng.integers(64))), s, d))
                s += rng.uniform(4, 10)
            else:
                b.actors.append(
                    Actor(
                        "",
                        _scenery_mesh("street lamp", int(rng.integers(64))),
                        s,
                        side * (road.half_width + 0.8),
                    )
                )
                s += rng.uniform(6, 12)


def _road(rng: np.random.Generator, kind: str, length: int, crossing: Sequence[float]) -> Road:
    curvature = np.full(length, float(rng.normal(0, 0.0006)))
    if kind == "curve":
        bend = float(rng.choice((-1, 1)) * rng.uniform(0.014, 0.03))
        start = int(rng.integers(4, 14))
        curvature[start : start + 70] = bend
    return Road(
        Route(curvature),
        float(rng.uniform(3.2, 3.7)),
        int(rng.choice((1, 1, 2))),
        kind,
        tuple(crossing),
    )


def _conditions(rng: np.random.Generator) -> tuple[str, str]:
    return (
        TIMES_OF_DAY[int(rng.choice(3, p=(0.48, 0.24, 0.28)))],
        WEATHERS[int(rng.choice(3, p=(0.56, 0.24, 0.20)))],
    )


def _finish(seed: int, b: _Builder, speed: float) -> World:
    rng = b.rng
    time_of_day, weather = _conditions(rng)
    grounds = ((88, 112, 66), (120, 112, 84), (104, 106, 100), (74, 96, 58), (140, 126, 96))
    grey = int(rng.integers(125, 165))
    return World(
        seed,
        b.road,
        time_of_day,
        weather,
        b.actors,
        speed,
        mount_height=float(rng.uniform(1.25, 1.75)),
        mount_pitch=float(rng.normal(0.02, 0.015)),
        mount_yaw=float(rng.normal(0, 0.02)),
        ground=grounds[int(rng.integers(len(grounds)))],
        sidewalk=(grey, grey - 3, grey - 8),
        asphalt=int(rng.integers(62, 105)),
    )


def sample_scene(seed: int, small: float = 0.3) -> World:
    """One street at one moment; classes, places, sizes and weather vary independently.

    `small` is the probability that an object is asked to cover less than 0.5 % of the image.

    A share of an image is drawn for each object and its distance follows, so that small and
    large ones are both common: uniform distances would leave little but specks.
    """
    rng = np.random.default_rng((seed, 1))
    kind = ROADS[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
    crossing = (float(rng.uniform(14, 32)),) if kind == "intersection" else ()
    road = _road(rng, kind, 160, crossing)
    if rng.random() < 0.38:
        s = crossing[0] - CROSSING_HALF_WIDTH - 2.6 if crossing else float(rng.uniform(9, 26))
        road = Road(road.route, road.lane_width, road.lanes, kind, crossing, (s,))
    b = _Builder(seed, road, rng, small)
    if rng.random() < 0.45:
        _lead_vehicle(b)
    for index in rng.permutation(len(_CONTENTS)):
        chance, place = _CONTENTS[index]
        if rng.random() < chance:
            place(b)
    _scenery(b, 6.0, 110.0)
    return _finish(seed, b, 0.0)


def _traffic(b: _Builder, reach: float, seconds: float, ego_speed: float) -> None:
    rng, road = b.rng, b.road
    lead = ego_speed * rng.uniform(0.92, 1.05)
    b.put("car", float(rng.uniform(14, 24)), road.ego_offset, speed=lead, radius=1.5)
    for s in np.arange(25.0, reach + seconds * 9, 22.0):
        label = VEHICLES[int(rng.choice(4, p=(0.6, 0.15, 0.1, 0.15)))]
        b.put(
            label,
            float(s + rng.uniform(-6, 6)),
            road.lane_offset(0, oncoming=True),
            yaw=np.pi,
            speed=float(rng.uniform(7, 9)),
            radius=2.4,
        )
    for s in np.arange(18.0, reach, 16.0):
        if rng.random() < 0.4:
            b.put("car", float(s), -(road.half_width + 1.3), radius=1.5)


def _roadside(b: _Builder, reach: float, seconds: float) -> None:
    rng, road = b.rng, b.road
    for s in np.arange(15.0, reach, 11.0):
        place = float(s + rng.uniform(-4, 4))
        draw = rng.random()
        edge = road.half_width
        if draw < 0.35:
            b.put(
                "pedestrian",
                place,
                float(rng.choice((-1, 1)) * (edge + rng.uniform(1.2, 3))),
                speed=float(rng.uniform(-1.2, 1.2)),
            )
        elif draw < 0.5:
            b.put("bicycle", place, -(edge - 0.5), speed=float(rng.uniform(3.5, 5.5)), radius=0.8)
        elif draw < 0.62:
            b.put("speed-limit sign", place, -(edge + 0.8))
        elif draw < 0.7:
            b.put("stop sign", place, -(edge + 0.8))
    for crosswalk in road.crosswalks:
        for side in (-1.0, 1.0):
            b.put_light(crosswalk + 1.5, side * (edge + 0.7), float(rng.uniform(0, 14)))
        wait = float(crosswalk) / 9.0
        b.put("pedestrian", crosswalk, -(edge + 1.0) - 1.3 * wait * 0.5, yaw=np.pi / 2, speed=1.3)
    works = reach * rng.uniform(0.35, 0.6)
    for i in range(8):
        b.put("cone", works + i * 3.0, road.ego_offset - 1.9, radius=0.3)
    b.put("barrier", works + 26.0, road.ego_offset - 2.2, radius=0.9)


def sample_drive(seed: int, seconds: float) -> World:
    """A drive of `seconds` along one street: moving traffic, changing lights, one work zone."""
    rng = np.random.default_rng((seed, 2))
    speed = float(rng.uniform(8.0, 11.0))
    reach = speed * seconds + 90.0
    places = np.arange(55.0, reach, 70.0) + rng.uniform(-8, 8)
    curvature = np.repeat(rng.choice((0.0, 0.0, 0.012, -0.012), size=int(reach / 40) + 3), 40)
    road = Road(
        Route(curvature.astype(np.float64)),
        3.5,
        int(rng.choice((1, 2))),
        "straight",
        tuple(float(p) for p in places[::2]),
        tuple(float(p) - CROSSING_HALF_WIDTH - 2.6 for p in places[::2])
        + tuple(float(p) for p in places[1::2]),
    )
    b = _Builder(seed, road, rng)
    _traffic(b, reach, seconds, speed)
    _roadside(b, reach, seconds)
    _scenery(b, 6.0, reach + 60)
    return _finish(seed, b, speed)
