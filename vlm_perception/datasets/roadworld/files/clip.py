# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A drive through the road world as a video file, rendered once and kept in the user's cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.common.errors import RunError
from vlm_perception.common.machine import cache_directory
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive
from vlm_perception.datasets.roadworld.world import World

WORLD_VERSION = 1
"""Raise it when the same seed gives other pixels: clips in the cache are then rendered again."""
JPEG_QUALITY = 90
STOP_LOOKED_FOR_EVERY_S = 0.2


class RenderingStoppedError(RunError):
    """A clip was left unfinished because the program is to end."""


@lru_cache(maxsize=2)
def _drive(seed: int, seconds: float) -> World:
    return sample_drive(seed, seconds)


def frame(
    index: int, *, width: int, height: int, fps: int, seconds: float, seed: int
) -> NDArray[np.uint8]:
    """One RGB frame [height, width, 3] of a drive."""
    cv2.setNumThreads(1)
    return render(_drive(seed, seconds), index / fps, width, height).image


def cached_clip(
    width: int,
    height: int,
    fps: int,
    seconds: float,
    seed: int,
    *,
    or_longer: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] | None = None,
) -> Path:
    """Path of a Motion-JPEG file of the drive, which is rendered if it is missing.

    Args:
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
        fps: Frames a second.
        seconds: Length of the drive.
        seed: Of the drive.
        or_longer: Whether a longer one will do if it is there already.
        stopped: Asked several times a second: whether to end without a clip.
        report: Called several times a second with the number of rendered frames and of all;
            without it a progress bar is drawn.

    Raises:
        OSError: The cache cannot be written.
        RenderingStoppedError: It was stopped.
    """
    start = f"roadworld-v{WORLD_VERSION}-{seed}-{width}x{height}-{fps}fps-"
    path = cache_directory() / f"{start}{seconds:g}s.avi"
    if path.exists():
        return path
    if or_longer:
        lengths = {_seconds(file, start): file for file in path.parent.glob(f"{start}*s.avi")}
        enough = [length for length in lengths if length >= seconds]
        if enough:
            return lengths[min(enough)]
    path.parent.mkdir(parents=True, exist_ok=True)
    job = partial(frame, width=width, height=height, fps=fps, seconds=seconds, seed=seed)
    count = round(fps * seconds)
    with Progress(transient=True, disable=report is not None) as progress:
        bar = progress.add_task("Rendering the road world (once)", total=count)

        def tell(done: int) -> None:
            if stopped():
                raise RenderingStoppedError(f"{path} was not finished")
            if report is not None:
                report(done, count)
            progress.update(bar, completed=done)

        _write(path, job, count, (width, height), fps, tell)
    return path


def _seconds(file: Path, start: str) -> float:
    return float(file.name.removeprefix(start).removesuffix("s.avi"))


def _write(
    path: Path,
    job: Callable[[int], NDArray[np.uint8]],
    count: int,
    size: tuple[int, int],
    fps: int,
    tell: Callable[[int], None],
) -> None:
    """Render in all cores and write; nothing is left of a clip that was not finished."""
    partial_path = path.with_name(f".{os.getpid()}-{path.name}")
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(partial_path), fourcc, float(fps), size)
    if not writer.isOpened():
        raise OSError(f"cannot write {partial_path}: this OpenCV cannot encode Motion JPEG")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, JPEG_QUALITY)
    width, height = size
    try:
        with _renderers(job, count) as sources:
            for index in range(count):
                tell(index)
                source = sources[index % len(sources)]
                while not source.poll(STOP_LOOKED_FOR_EVERY_S):
                    tell(index)
                image = np.frombuffer(source.recv_bytes(), np.uint8).reshape(height, width, 3)
                writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        tell(count)
        writer.release()
        partial_path.rename(path)
    finally:
        writer.release()
        partial_path.unlink(missing_ok=True)


@contextmanager
def _renderers(job: Callable[[int], NDArray[np.uint8]], count: int) -> Iterator[list[Connection]]:
    """Start a process for each core; the n-th image comes from the n-th of them, round and round.

    Each has a pipe of its own, so it can be ended at any moment: of a pool, whose processes share
    one for their results, the rest waits for ever when one is ended while it sends.
    """
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    context = get_context("spawn")
    number = max(1, min(os.cpu_count() or 1, count))
    sources, processes = [], []
    try:
        for first in range(number):
            source, end = context.Pipe(duplex=False)
            sources.append(source)
            work = (end, job, range(first, count, number))
            processes.append(context.Process(target=_render, args=work, daemon=True))
            processes[-1].start()
            # Then the pipe ends with the process.
            end.close()
        yield sources
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for source in sources:
            source.close()


def _render(
    end: Connection, job: Callable[[int], NDArray[np.uint8]], images: Sequence[int]
) -> None:
    # A terminal sends Ctrl-C to all processes; it is for the one that waits for the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for index in images:
        end.send_bytes(job(index).tobytes())
