# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Odd buildings, vegetation and poles: scenery of random build, with textures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from vlm_perception.datasets.roadworld.mesh import Colour, Mesh
from vlm_perception.datasets.roadworld.textures import VARIANTS, tile

POOL = 48
"""Meshes of a kind."""
_WALLS = ("bricks", "bricks", "noise", "stripes", "panes", "panes")


def _any(rng: np.random.Generator, low: int = 60, high: int = 215) -> Colour:
    """Any colour, seldom a gaudy one."""
    grey = rng.uniform(low, high)
    red, green, blue = np.clip(grey + rng.normal(0, 24, 3), 25, 245).astype(int).tolist()
    return red, green, blue


def building(rng: np.random.Generator) -> Mesh:
    """A house of any proportions, with a flat or pitched roof and a board on its walls."""
    mesh = Mesh()
    half, depth, top = rng.uniform(2.5, 9), rng.uniform(3, 6), rng.uniform(3, 26)
    wall, trim = _any(rng), _any(rng)
    kind = _WALLS[rng.integers(len(_WALLS))]
    texture = tile(kind, int(rng.integers(VARIANTS)))
    corners = ((-half, -depth), (half, -depth), (half, depth), (-half, depth))
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        mesh.add(((x0, y0, 0), (x1, y1, 0), (x1, y1, top), (x0, y0, top)), wall)
        mesh.cover(texture)
    if rng.random() < 0.5:
        rise = top + rng.uniform(1, 4)
        for side in (-1.0, 1.0):
            a, b = side * half, side * depth
            mesh.add(((a, b, top), (-a, b, top), (-a, 0, rise), (a, 0, rise)), trim)
            mesh.add(((a, -b, top), (a, b, top), (a, 0, rise)), wall)
    if kind not in ("panes", "stripes"):
        _windows(mesh, rng, half, depth, top)
    _boards(mesh, rng, half, depth, top)
    return mesh


def _windows(mesh: Mesh, rng: np.random.Generator, half: float, depth: float, top: float) -> None:
    glass, lit = _any(rng, 35, 110), rng.random() < 0.4
    across, wide, storey = int(rng.integers(2, 5)), rng.uniform(0.2, 0.4), rng.uniform(2.6, 4.5)
    for floor in range(min(int(top / storey), 6)):
        z = floor * storey + 1, min(floor * storey + 1 + storey * 0.5, top - 0.2)
        colour = (225, 190, 120) if lit and floor % 2 else glass
        for bay in range(across):
            x = half * (2 * (bay + 0.5) / across - 1)
            a, b = x - half * wide / across, x + half * wide / across
            for y, (u, v) in ((-depth - 0.01, (a, b)), (depth + 0.01, (b, a))):
                mesh.add(((u, y, z[0]), (v, y, z[0]), (v, y, z[1]), (u, y, z[1])), colour, rank=1)
        mesh.rear(-half, (-depth * 0.6, depth * 0.6), z, colour)


def _boards(mesh: Mesh, rng: np.random.Generator, half: float, depth: float, top: float) -> None:
    """On the walls beside the road and that which is driven towards."""
    wide = min(depth, half) * rng.uniform(0.4, 0.9)
    z0, z1 = top * rng.uniform(0.15, 0.35), top * rng.uniform(0.55, 0.95)
    colour = _any(rng)
    texture = tile(("stripes", "noise", "slabs")[rng.integers(3)], int(rng.integers(VARIANTS)))
    mesh.add(((-half, wide, z0), (-half, -wide, z0), (-half, -wide, z1), (-half, wide, z1)),
             colour, rank=2)  # fmt: skip
    mesh.cover(texture, board=True)
    for side in (-1.0, 1.0):
        a, b, y = side * wide, -side * wide, side * depth
        mesh.add(((a, y, z0), (b, y, z0), (b, y, z1), (a, y, z1)), colour, rank=2)
        mesh.cover(texture, board=True)


def plant(rng: np.random.Generator) -> Mesh:
    """A fir, a poplar, a bush, or a tree of rounds."""
    mesh, height = Mesh(billboard=True), rng.uniform(1.0, 9.0)
    green = np.array((70, 100, 50)) + rng.integers(-40, 41, 3)

    def shade(step: int) -> Colour:
        red, grass, blue = np.clip(green + step * 9, 8, 240).tolist()
        return red, grass, blue

    mesh.strip((-0.12, 0.12), (0.0, height * 0.4), (85, 65, 48))
    shape, wide = rng.integers(3), height * rng.uniform(0.12, 0.3)
    for i in range(int(rng.integers(3, 8))):
        low = height * (0.15 + 0.12 * i)
        if shape == 0:
            half = wide * max(1.2 - 0.2 * i, 0.2)
            mesh.flat(((-half, low), (half, low), (0.0, low + height * 0.3)), shade(i - 2))
        else:
            lean = rng.uniform(-wide, wide) * (shape - 1)
            mesh.round(lean, low + wide, wide * rng.uniform(0.6, 1.1), shade(i - 2))
    return mesh


def hedge(rng: np.random.Generator) -> Mesh:
    """A hedge, a wall or a fence along the road."""
    mesh, half = Mesh(), rng.uniform(1.0, 2.5)
    kind = ("leaves", "leaves", "bricks", "stripes")[rng.integers(4)]
    low = np.array((60, 95, 45)) if kind == "leaves" else np.array(_any(rng))
    red, green, blue = np.clip(low + rng.integers(-25, 26, 3), 10, 240).tolist()
    depth = rng.uniform(0.15, 0.45)
    mesh.box((-half, half), (-depth, depth), (0.0, rng.uniform(0.5, 1.7)), (red, green, blue))
    mesh.cover(tile(kind, int(rng.integers(VARIANTS))), last=5)
    return mesh


def pole(rng: np.random.Generator) -> Mesh:
    """A pole for wires, for a flag, or for nothing."""
    mesh, height, colour = Mesh(billboard=True), rng.uniform(2.5, 9.0), _any(rng, 50, 180)
    mesh.strip((-0.08, 0.08), (0.0, height), colour)
    for arm in range(int(rng.integers(0, 3))):
        reach = rng.uniform(0.4, 1.2)
        mesh.strip((-reach, reach), (height - 0.5 * arm - 0.4, height - 0.5 * arm - 0.28), colour)
    return mesh


_BUILDERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "building": building,
    "plant": plant,
    "hedge": hedge,
    "pole": pole,
}


@cache
def odd(kind: str, variant: int) -> Mesh:
    """A building, plant, hedge or pole of the pool."""
    number = sorted(_BUILDERS).index(kind)
    return _BUILDERS[kind](np.random.default_rng((101, number, variant)))
