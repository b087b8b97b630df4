# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as a camera sees it over time: drives, and scenes under a hunting exposure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

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


@dataclass(frozen=True)
class Stretch:
    """One sequence to be seen."""

    kind: str
    """DRIVE, or STATIC for a static scene while brightness and white balance of the camera
    wander."""
    seed: int
    """Of the world."""
    seconds: float
    hz: float
    """Frames a second."""


Arrays = dict[str, Any]
"""By their names."""


def watch(
    wanted: Mapping[Path, Stretch],
    analyse: Callable[[Stretch], Arrays],
    workers: int | None = None,
) -> list[Arrays]:
    """Analyse what is not kept yet, with a progress bar, and load everything.

    Args:
        wanted: sequences, each by the file that keeps what was made of it.
        analyse: plays a sequence and makes arrays of it, in another process.
        workers: processes; None: one for each core.
    """
    missing = {path: each for path, each in wanted.items() if not path.exists()}
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    with Progress(transient=True) as progress:
        known = len(wanted) - len(missing)
        bar = progress.add_task("Sequences", total=len(wanted), completed=known)
        try:
            for _ in pool.map(partial(_keep, analyse), missing.items()):
                progress.advance(bar)
        finally:
            # After Ctrl-C only what has begun is waited for.
            pool.shutdown(cancel_futures=True)
    return [_load(path) for path in wanted]


def _keep(analyse: Callable[[Stretch], Arrays], job: tuple[Path, Stretch]) -> None:
    """A run that is broken off leaves no file."""
    cv2.setNumThreads(1)
    path, stretch = job
    arrays = analyse(stretch)
    partly = path.with_name(f".{os.getpid()}-{path.name}")
    with partly.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partly.rename(path)


def _load(path: Path) -> Arrays:
    with np.load(path) as stored:
        return dict(stored)


def play(stretch: Stretch) -> Iterator[Street]:
    """Each frame, of SIZE, with what is true in it."""
    seed, hz = stretch.seed, stretch.hz
    ticks = round(stretch.seconds * hz)
    if stretch.kind == DRIVE:
        world = sample_drive(seed, stretch.seconds)
        for tick in range(ticks):
            yield look(world, SIZE, tick / hz)
        return
    world = sample_scene(seed)
    for tick, gains in enumerate(_jitter(seed, ticks, PERSISTENCE ** (10.0 / hz))):
        # A millisecond a tick: noise and rain are sampled again, and nothing else changes.
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
