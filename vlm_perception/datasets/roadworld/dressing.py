# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Random streets: what stands beside the road, and the shades of all things.

Domain randomisation (Tobin et al., 2017). What has a label keeps its place and its build, and a
shade keeps the name of its colour, so that captions and questions stay true.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.mesh import Mesh
from vlm_perception.datasets.roadworld.scenery import POOL, odd
from vlm_perception.datasets.roadworld.surfaces import Surfaces, draw_surfaces
from vlm_perception.datasets.roadworld.world import Actor, World

_STREAM = 22
_BESIDE = 3.9
"""Metres from the kerb to what is added: the pavement is for people and signs."""


def dressed(
    world: World, strength: float, photographs: NDArray[np.uint8] | None = None
) -> tuple[World, Surfaces]:
    """A street with the same objects that looks different; the same seed gives the same looks.

    Args:
        world: stays as it is.
        strength: 0..1, how far it may be from the plain one.
        photographs: [n, h, w, 3], for sky, ground and boards on walls; where something stands does
            not depend on them.
    """
    rng = np.random.default_rng((world.seed, _STREAM))
    surfaces = draw_surfaces(rng, strength, photographs)
    ground, sidewalk = (
        _between(plain, rng.uniform(50, 185) + rng.normal(0, 18, 3), strength)
        for plain in (world.ground, world.sidewalk)
    )
    asphalt = round(world.asphalt + strength * rng.uniform(-35, 60))
    replaced = 0.75 * strength
    actors = []
    for actor in world.actors:
        if actor.label:
            actors.append(_reshaded(actor, rng, strength))
        elif rng.random() < 0.2 * strength:
            continue
        else:
            kind = _kind(actor.mesh)
            other = odd(kind, int(rng.integers(POOL)))
            mesh = other if rng.random() < replaced else actor.mesh
            actors.append(replace(actor, mesh=_scenery(mesh, rng, strength, photographs)))
    for _ in range(int(rng.integers(0, 12) * strength)):
        s, side = float(rng.uniform(8, 80)), float(rng.choice((-1.0, 1.0)))
        kind = ("hedge", "hedge", "pole", "plant")[rng.integers(4)]
        mesh = _scenery(odd(kind, int(rng.integers(POOL))), rng, strength, photographs)
        d = side * (world.road.half_width + _BESIDE + rng.uniform(0, 2.5))
        if all(abs(s - crossing) > 14 for crossing in world.road.crossings):
            actors.append(Actor("", mesh, s, d))
    changed = replace(
        world,
        actors=actors,
        ground=ground,
        sidewalk=sidewalk,
        asphalt=int(np.clip(asphalt, 38, 150)),
    )
    return changed, surfaces


def _kind(mesh: Mesh) -> str:
    """What takes the place of plain scenery."""
    if not mesh.billboard:
        return "building"
    return "pole" if mesh.packed.emissive.any() else "plant"


def _between(
    plain: tuple[int, int, int], other: NDArray[np.float64], share: float
) -> tuple[int, int, int]:
    mixed = np.clip(np.array(plain) * (1 - share) + other * share, 20, 235)
    red, green, blue = np.rint(mixed).astype(int).tolist()
    return red, green, blue


def _shades(mesh: Mesh, rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """The colours of a thing that stands in another light and is dirty; lamps shine as they did.

    Bounded, so that a colour keeps its name: of a white, four fifths are left.
    """
    colours, faces = mesh.packed.colours, len(mesh.packed.colours)
    whole, tint = rng.uniform(-0.14, 0.12), rng.uniform(-0.035, 0.035, 3)
    each = rng.uniform(-0.06, 0.06, (faces, 1))
    gains = 1 + strength * (whole + tint + each)
    return np.where(mesh.packed.emissive[:, None], colours, np.minimum(colours * gains, 255))


def _reshaded(actor: Actor, rng: np.random.Generator, strength: float) -> Actor:
    if not actor.signals:
        return replace(actor, mesh=actor.mesh.redrawn(_shades(actor.mesh, rng, strength)))
    state = rng.bit_generator.state
    signals = {}
    for name, mesh in actor.signals.items():
        # The same housing whichever lamp is lit.
        rng.bit_generator.state = state
        signals[name] = mesh.redrawn(_shades(mesh, rng, strength))
    lit = next(name for name, mesh in actor.signals.items() if mesh is actor.mesh)
    return replace(actor, mesh=signals[lit], signals=signals)


def _scenery(
    mesh: Mesh, rng: np.random.Generator, strength: float, photographs: NDArray[np.uint8] | None
) -> Mesh:
    """Scenery in other colours, and with a photograph on its boards."""
    packed = mesh.packed
    gains = 1 + strength * (rng.uniform(-0.4, 0.4) + rng.uniform(-0.15, 0.15, 3))
    colours = np.where(packed.emissive[:, None], packed.colours, packed.colours * gains)
    colours, pictures = np.clip(colours, 0, 255), list(packed.pictures)
    shown, chosen = rng.random() < strength, rng.random()
    if photographs is not None and shown:
        for board in packed.boards:
            pictures[board] = photographs[int(chosen * len(photographs))]
            colours[board] = 128.0
    return mesh.redrawn(colours, pictures)
