# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How fast 00_raw and 01_filtered are made of JPEG files, alone and by Ray's workers."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import yaml
from rich.console import Console

from vlm_perception.curation.engine import Engine
from vlm_perception.curation.run import Options, run
from vlm_perception.curation.stage_folder import FILTERED, RAW
from vlm_perception.curation.times import read_times
from vlm_perception.datasets.final_set import RECIPE
from vlm_perception.outputs.durable import write_bytes

SIZE = (640, 480)
MILLION = 1e6


@dataclass(frozen=True)
class Speed:
    """Of one process, which takes a core."""

    images: int
    by_stage: dict[str, float]
    """Images per second of processor time in the tasks of each stage: decoding, checks, pHash."""
    images_per_second_per_core: float
    """Of both stages together, with listing, the search for near-duplicates and their files."""
    seconds: float
    set_bytes: int
    """What both stages take of the disk; most of it are the images."""

    @property
    def core_hours_of_a_million(self) -> float:
        """Projected: as many core hours as 10^6 such images would take, all else being equal."""
        return MILLION / self.images_per_second_per_core / 3600

    @property
    def gigabytes_of_a_million(self) -> float:
        """Projected: disk that 10^6 such images would take."""
        return self.set_bytes / self.images * MILLION / 1e9


@dataclass(frozen=True)
class Scaling:
    """Of Ray's workers, a process each."""

    seconds: dict[str, float]
    """By the number of workers, without Ray's start."""
    ray_start_seconds: float

    @property
    def from_one_to_two(self) -> float:
        """How many times faster two are than one."""
        return self.seconds["1"] / self.seconds["2"]


def alone(images: Path, folder: Path) -> Speed:
    """Make a set in this process.

    Args:
        images: a folder of JPEG files, for a source.
        folder: for the set; it does not exist.
    """
    with _one_thread():
        began, cpu_began = time.perf_counter(), time.process_time()
        made = _made(images, folder, Engine())
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    times = read_times(made)
    count = times[RAW].images
    by_stage = {stage: times[stage].images / times[stage].cpu_s for stage in times}
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    return Speed(count, by_stage, count / cpu_seconds, seconds, size)


def by_workers(images: Path, folder: Path) -> Scaling:
    """Make the same set with one worker, which is this process, and with two of Ray's.

    Args:
        images: as for `alone`.
        folder: for both sets; it exists.
    """
    with _one_thread():
        began = time.perf_counter()
        _made(images, folder / "one", Engine())
        one = time.perf_counter() - began
    began = time.perf_counter()
    with Engine(workers=2) as engine:
        # Both processes have imported everything before the time counts.
        for _ in engine.done(_nothing, range(8)):
            pass
        start = time.perf_counter() - began
        began = time.perf_counter()
        _made(images, folder / "two", engine)
        two = time.perf_counter() - began
    return Scaling({"1": one, "2": two}, start)


def _made(images: Path, folder: Path, engine: Engine) -> Path:
    folder.mkdir()
    source = {"kind": "folder", "path": str(images), "unrelated": True}
    write_bytes(folder / RECIPE, yaml.safe_dump({"sources": [source]}).encode())
    run(folder, Options(FILTERED, engine=engine), Console(file=io.StringIO()))
    return folder


def _nothing(_: int) -> dict[str, int]:
    return {}


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV with one thread, as in each of Ray's workers."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
