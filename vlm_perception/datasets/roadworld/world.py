# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A street in metres: road, weather, and actors that move."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vlm_perception.datasets.roadworld.geometry import Camera, Route
from vlm_perception.datasets.roadworld.mesh import Mesh

LIGHT_STATES = ("red", "yellow", "green")
OBJECT_LABELS = (
    "car",
    "truck",
    "bus",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "red traffic light",
    "yellow traffic light",
    "green traffic light",
    "stop sign",
    "speed-limit sign",
    "cone",
    "barrier",
    "crosswalk",
)
SCENE_LABELS = ("rain", "fog", "night")
LABELS = OBJECT_LABELS + SCENE_LABELS
VEHICLES = ("car", "truck", "bus", "motorcycle")
TIMES_OF_DAY = ("day", "dusk", "night")
WEATHERS = ("clear", "rain", "fog")
ROADS = ("straight", "curve", "intersection")

CROSSING_HALF_WIDTH = 3.6


@dataclass
class Actor:
    """An object that stands or moves on the street."""

    label: str
    """One of OBJECT_LABELS, or empty for scenery."""
    mesh: Mesh
    s: float
    d: float
    yaw: float = 0.0
    """Heading relative to the road's, in radians."""
    speed: float = 0.0
    """Along its own heading, in m/s."""
    signals: dict[str, Mesh] = field(default_factory=dict)
    """A traffic light's mesh for each state."""
    phase: float = 0.0
    """A traffic light's offset in its cycle, in seconds."""

    def at(self, time: float) -> Actor:
        """This actor, `time` seconds later."""
        label, mesh = self.label, self.mesh
        if self.signals:
            state = signal_state(time + self.phase)
            label, mesh = f"{state} traffic light", self.signals[state]
        step = self.speed * time
        return Actor(
            label,
            mesh,
            self.s + step * float(np.cos(self.yaw)),
            self.d + step * float(np.sin(self.yaw)),
            self.yaw,
            self.speed,
        )


@dataclass(frozen=True)
class Road:
    """The cross-section and what crosses it."""

    route: Route
    lane_width: float
    lanes: int
    """Lanes in each direction."""
    kind: str
    crossings: tuple[float, ...] = ()
    """Arc lengths at which another road crosses."""
    crosswalks: tuple[float, ...] = ()

    @property
    def half_width(self) -> float:
        """From the centre line to the kerb, in metres."""
        return self.lanes * self.lane_width

    @property
    def ego_offset(self) -> float:
        """Offset of the ego lane's middle: the rightmost lane, traffic keeps right."""
        return -(self.lanes - 0.5) * self.lane_width

    def lane_offset(self, lane: int, *, oncoming: bool) -> float:
        """Middle of a lane, counted from the centre line."""
        offset = (lane + 0.5) * self.lane_width
        return offset if oncoming else -offset


@dataclass
class World:
    """Everything that a renderer or another sensor's simulation needs."""

    seed: int
    road: Road
    time_of_day: str
    weather: str
    actors: list[Actor]
    ego_speed: float = 0.0
    mount_height: float = 1.45
    mount_pitch: float = 0.03
    mount_yaw: float = 0.0
    ground: tuple[int, int, int] = (90, 110, 70)
    sidewalk: tuple[int, int, int] = (150, 148, 142)
    asphalt: int = 82

    def ego_s(self, time: float) -> float:
        """Arc length of the ego vehicle."""
        return self.ego_speed * time

    def camera(self, time: float, width: int, height: int) -> Camera:
        """The camera behind the windscreen."""
        s = self.ego_s(time)
        x, y = self.road.route.point(s, self.road.ego_offset)
        yaw = self.road.route.heading(s) + self.mount_yaw
        return Camera(width, height, (x, y, self.mount_height), yaw, self.mount_pitch)


def signal_state(time: float) -> str:
    """State of a light with a 14 s cycle: red 6 s, green 6 s, yellow 2 s."""
    position = time % 14.0
    return "red" if position < 6.0 else "green" if position < 12.0 else "yellow"
