# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The pinhole camera and the road's centre line.

Axes follow REP 103: x forward, y left, z up, in metres; the road's own coordinates are arc length
`s` and offset `d` to the left of the centre line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
"""Nearest distance that is drawn, in metres."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at a pose in the world."""

    width: int
    height: int
    position: tuple[float, float, float]
    yaw: float
    pitch: float
    """Downwards, in radians."""
    horizontal_fov: float = np.deg2rad(70.0)

    @cached_property
    def focal(self) -> float:
        """Focal length in pixels."""
        return float(self.width / 2 / np.tan(self.horizontal_fov / 2))

    @property
    def horizon(self) -> float:
        """Row of the horizon in pixels."""
        return self.height / 2 - self.focal * float(np.tan(self.pitch))

    @cached_property
    def rotation(self) -> Array:
        """Turns directions of the world into the optical frame, [3, 3]."""
        cos_y, sin_y = np.cos(self.yaw), np.sin(self.yaw)
        cos_p, sin_p = np.cos(self.pitch), np.sin(self.pitch)
        forward = (cos_y * cos_p, sin_y * cos_p, -sin_p)
        right = (sin_y, -cos_y, 0.0)
        down = (-cos_y * sin_p, -sin_y * sin_p, -cos_p)
        return np.array((right, down, forward))

    def to_camera(self, points: Array) -> Array:
        """World points [N, 3] to the optical frame [N, 3] (x right, y down, z forward)."""
        turned: Array = (points - np.asarray(self.position)) @ self.rotation.T
        return turned

    def to_pixels(self, points: Array) -> Array:
        """Optical-frame points [N, 3] in front of the camera to pixels [N, 2]."""
        scale = self.focal / points[:, 2]
        pixels: Array = points[:, :2] * scale[:, None] + (self.width / 2, self.height / 2)
        return pixels


class Route:
    """A road's centre line, integrated from its curvature."""

    STEP = 1.0

    def __init__(self, curvature: Array) -> None:
        """Integrate `curvature` [N] in 1/m, one value a metre, from the origin along x."""
        heading = np.concatenate(([0.0], np.cumsum(curvature) * self.STEP))[:-1]
        self._s = np.arange(len(curvature)) * self.STEP
        self._heading = heading
        self._x = np.concatenate(([0.0], np.cumsum(np.cos(heading)) * self.STEP))[:-1]
        self._y = np.concatenate(([0.0], np.cumsum(np.sin(heading)) * self.STEP))[:-1]

    @property
    def length(self) -> float:
        """Length in metres."""
        return float(self._s[-1])

    def heading(self, s: float) -> float:
        """Heading of the road at `s`, in radians."""
        return float(np.interp(s, self._s, self._heading))

    def headings(self, s: Array) -> Array:
        """Headings of the road at `s` [N], in radians."""
        headings: Array = np.interp(s, self._s, self._heading)
        return headings

    def points(self, s: Array, d: Array | float) -> Array:
        """Ground points [N, 3] at arc lengths `s` and offsets `d`; straight on past the ends."""
        inside = np.minimum(np.maximum(s, 0.0), self.length)
        beyond = s - inside
        heading = np.interp(inside, self._s, self._heading)
        cos_h, sin_h = np.cos(heading), np.sin(heading)
        x = np.interp(inside, self._s, self._x) + beyond * cos_h - d * sin_h
        y = np.interp(inside, self._s, self._y) + beyond * sin_h + d * cos_h
        ground = np.zeros((len(x), 3))
        ground[:, 0], ground[:, 1] = x, y
        return ground

    def point(self, s: float, d: float) -> tuple[float, float]:
        """Ground position (x, y) at one place."""
        x, y, _ = self.points(np.array([s]), d)[0]
        return float(x), float(y)


def clip_near(points: Array) -> Array:
    """A polygon [N, 3] in the optical frame, cut at the near plane (Sutherland-Hodgman)."""
    kept: list[Array] = []
    for current, following in zip(points, np.roll(points, -1, axis=0), strict=True):
        if current[2] >= NEAR:
            kept.append(current)
        if (current[2] >= NEAR) != (following[2] >= NEAR):
            share = (NEAR - current[2]) / (following[2] - current[2])
            kept.append(current + share * (following - current))
    return np.array(kept).reshape(-1, 3)
