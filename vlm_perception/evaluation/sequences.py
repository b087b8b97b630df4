# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Road-world sequences, analysed in full at every tick and kept on disk.

A gate or a filter only chooses among what the networks said, so that any number of them can be
compared on one such run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.bundle import ModelBundle
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive, sample_scene
from vlm_perception.datasets.roadworld.truth import (
    PRESENT_SHARE,
    QUESTIONS,
    ObjectTruth,
    SceneTruth,
    describe,
)
from vlm_perception.datasets.roadworld.world import LABELS, World
from vlm_perception.manifest import QuestionSpec
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.perception.language import LanguageModel
from vlm_perception.types import Frame

TICK_HZ = 10.0
WIDTH, HEIGHT = 640, 360
DRIVE, STATIC = "drive", "static"
VERSION = 1
"""Raise it when the same seed gives another sequence: recordings in a folder are then made anew."""

BRIGHTNESS, WHITE_BALANCE = 0.08, 0.03
"""Jitter of a static scene: standard deviation of the logarithm of the gains."""
PERSISTENCE = 0.8
"""Share of a gain that is left at the next tick: automatic exposure hunts, it does not flash."""


@dataclass(frozen=True)
class Recording:
    """What was true and what was said at each of T ticks of one sequence."""

    pooled: NDArray[np.float32]
    """[T, D]"""
    answers: NDArray[np.int64]
    """[T, questions], index of the likeliest choice; questions in the order of QUESTIONS."""
    truths: NDArray[np.int64]
    """[T, questions], index of the true choice."""
    shares: NDArray[np.float32]
    """[T, labels], share of the image that the largest object covers; labels as in LABELS."""
    distances: NDArray[np.float32]
    """[T, 3], metres to the nearest light, person in the path, cone or barrier; NaN without one."""


@dataclass(frozen=True)
class Job:
    """One sequence to be recorded."""

    kind: str
    seed: int
    seconds: float
    path: Path


def record(
    bundle: ModelBundle, kinds: Sequence[tuple[str, range]], seconds: float, folder: Path
) -> dict[str, list[Recording]]:
    """Record what the folder lacks, on all cores and with a progress bar, and load everything.

    Args:
        bundle: the model, a road-world one with a language part.
        kinds: DRIVE or STATIC with the seeds of each.
        seconds: length of each sequence.
        folder: takes one file a sequence, below the digest of the bundle.
    """
    home = folder / f"{bundle.digest[:12]}-v{VERSION}"
    home.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(kind, seed, seconds, home / f"{kind}-{seed}-{seconds:g}s.npz")
        for kind, seeds in kinds
        for seed in seeds
    ]
    missing = [job for job in jobs if not job.path.exists()]
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    pool = ProcessPoolExecutor(mp_context=get_context("spawn"))
    with Progress(transient=True) as progress:
        bar = progress.add_task("Sequences", total=len(jobs), completed=len(jobs) - len(missing))
        try:
            for _ in pool.map(partial(_record, str(bundle.path)), missing):
                progress.advance(bar)
        finally:
            # After Ctrl-C only what has begun is waited for.
            pool.shutdown(cancel_futures=True)
    recordings: dict[str, list[Recording]] = {kind: [] for kind, _ in kinds}
    for job in jobs:
        with np.load(job.path) as stored:
            recordings[job.kind].append(Recording(**stored))
    return recordings


def _record(bundle: str, job: Job) -> None:
    """Render, encode and analyse one sequence and write it; a broken-off run leaves no file."""
    cv2.setNumThreads(1)
    recording = _analyst(bundle).watch(job)
    partly = job.path.with_name(f".{os.getpid()}-{job.path.name}")
    with partly.open("wb") as file:
        np.savez_compressed(file, **asdict(recording))
    partly.rename(job.path)


class _Analyst:
    """A bundle's encoder and language model with the road world's questions."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._encoder = VisionEncoder(bundle)
        self._language = LanguageModel(bundle)
        self._questions = self._language.pack(
            [QuestionSpec(name=n, question=q, choices=c) for n, (q, c) in QUESTIONS.items()]
        )

    def watch(self, job: Job) -> Recording:
        rows: list[tuple[NDArray[np.float32], list[int], list[int], list[float], list[float]]] = []
        for image, truth in _frames(job):
            embedding = self._encoder.encode(Frame(image, 0), len(rows))
            prefix = self._language.prefill(embedding.tokens)
            said = self._language.answer(prefix, self._questions)
            rows.append(
                (
                    embedding.pooled,
                    [int(np.argmax(each.probabilities)) for each in said],
                    [choices.index(truth.attributes[n]) for n, (_, choices) in QUESTIONS.items()],
                    _shares(truth),
                    _distances(truth),
                )
            )
        pooled, answers, truths, shares, distances = zip(*rows, strict=True)
        return Recording(
            np.stack(pooled),
            np.array(answers, np.int64),
            np.array(truths, np.int64),
            np.array(shares, np.float32),
            np.array(distances, np.float32),
        )


@lru_cache(maxsize=1)
def _analyst(bundle: str) -> _Analyst:
    """Once in each process."""
    return _Analyst(ModelBundle.load(bundle))


def _frames(job: Job) -> Iterator[tuple[NDArray[np.uint8], SceneTruth]]:
    ticks = round(job.seconds * TICK_HZ)
    if job.kind == DRIVE:
        world = sample_drive(job.seed, job.seconds)
        for tick in range(ticks):
            yield _view(world, tick / TICK_HZ)
        return
    world = sample_scene(job.seed)
    for tick, gains in enumerate(_jitter(job.seed, ticks)):
        # A millisecond a tick: noise and rain are drawn anew, and nothing else changes.
        image, truth = _view(world, tick / 1000)
        yield np.clip(image * gains, 0, 255).astype(np.uint8), truth


def _view(world: World, time: float) -> tuple[NDArray[np.uint8], SceneTruth]:
    rendered = render(world, time, WIDTH, HEIGHT)
    return rendered.image, describe(world, rendered, time)


def _jitter(seed: int, ticks: int) -> NDArray[np.float32]:
    """Gains of red, green and blue, [ticks, 3]: one walk for all, and a smaller one for each."""
    rng = np.random.default_rng((seed, 5))
    spread = np.array((BRIGHTNESS, *(WHITE_BALANCE,) * 3))
    walk = np.empty((ticks, 4))
    state = rng.normal(0, spread)
    for tick in range(ticks):
        walk[tick] = state
        state = PERSISTENCE * state + np.sqrt(1 - PERSISTENCE**2) * rng.normal(0, spread)
    return np.exp(walk[:, :1] + walk[:, 1:]).astype(np.float32)


def _shares(truth: SceneTruth) -> list[float]:
    largest = dict(truth.shares)
    for thing in truth.objects:
        largest[thing.label] = max(thing.share, largest.get(thing.label, 0.0))
    return [largest.get(label, 0.0) for label in LABELS]


def _distances(truth: SceneTruth) -> list[float]:
    kinds: tuple[Callable[[ObjectTruth], bool], ...] = (
        lambda thing: thing.label.endswith("traffic light"),
        lambda thing: thing.label == "pedestrian" and abs(thing.offset) < 1.7,
        lambda thing: thing.label in ("cone", "barrier"),
    )
    present = [thing for thing in truth.objects if thing.share >= PRESENT_SHARE]
    return [
        min((thing.distance for thing in present if holds(thing)), default=float("nan"))
        for holds in kinds
    ]
