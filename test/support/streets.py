# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Small pictures of sampled streets with their truth, each drawn once for all tests of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hypothesis import settings

from vlm_perception.datasets.roadworld.renderer import Rendered, render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.truth import SceneTruth, describe
from vlm_perception.datasets.roadworld.world import World

WIDTH, HEIGHT = 160, 90
# The same examples on each run, however busy the machine is.
PROPERTY = settings(deadline=None, database=None, derandomize=True)


@dataclass(frozen=True)
class Street:
    """A world at time 0, its picture and what is true of it."""

    world: World
    rendered: Rendered
    truth: SceneTruth


@cache
def street(seed: int) -> Street:
    """The street of a seed at 160 x 90 pixels."""
    world = sample_scene(seed)
    rendered = render(world, 0.0, WIDTH, HEIGHT)
    return Street(world, rendered, describe(world, rendered))


def streets(count: int) -> list[Street]:
    """The streets of the first seeds."""
    return [street(seed) for seed in range(count)]
