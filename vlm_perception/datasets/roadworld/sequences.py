# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as a camera sees it over time: drives, and scenes under a hunting exposure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.sampling import sample_drive, sample_scene
from vlm_perception.datasets.roadworld.streets import Street, look
from vlm_perception.datasets.roadworld.truth import SceneTruth
from vlm_perception.datasets.roadworld.world import LABELS

DRIVE, STATIC = "drive", "static"
SIZE = (640, 360)

BRIGHTNESS, WHITE_BALANCE = 0.08, 0.03
"""Jitter of a static scene: standard deviation of the logarithm of the gains."""
PERSISTENCE = 0.8
"""Share of a gain that is left after a tenth of a second: automatic exposure hunts, it does not
flash."""


def play(kind: str, seed: int, seconds: float, hz: float) -> Iterator[Street]:
    """Each frame, of SIZE, with what is true in it.

    Args:
        kind: DRIVE, or STATIC for a scene that stands still while brightness and white balance
            of the camera wander.
        seed: of the world.
        seconds: length.
        hz: frames a second.
    """
    ticks = round(seconds * hz)
    if kind == DRIVE:
        world = sample_drive(seed, seconds)
        for tick in range(ticks):
            yield look(world, SIZE, tick / hz)
        return
    world = sample_scene(seed)
    for tick, gains in enumerate(_jitter(seed, ticks, PERSISTENCE ** (10.0 / hz))):
        # A millisecond a tick: noise and rain are drawn anew, and nothing else changes.
        street = look(world, SIZE, tick / 1000)
        yield replace(street, image=np.clip(street.image * gains, 0, 255).astype(np.uint8))


def label_shares(truth: SceneTruth) -> list[float]:
    """Share of the image that the largest object of each of LABELS covers, 0 without one."""
    largest = dict(truth.shares)
    for thing in truth.objects:
        largest[thing.label] = max(thing.share, largest.get(thing.label, 0.0))
    return [largest.get(label, 0.0) for label in LABELS]


def _jitter(seed: int, ticks: int, persistence: float) -> NDArray[np.float32]:
    """Gains of red, green and blue, [ticks, 3]: one walk for all, and a smaller one for each."""
    rng = np.random.default_rng((seed, 5))
    spread = np.array((BRIGHTNESS, *(WHITE_BALANCE,) * 3))
    walk = np.empty((ticks, 4))
    state = rng.normal(0, spread)
    for tick in range(ticks):
        walk[tick] = state
        state = persistence * state + np.sqrt(1 - persistence**2) * rng.normal(0, spread)
    return np.exp(walk[:, :1] + walk[:, 1:]).astype(np.float32)
