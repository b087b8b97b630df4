# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A drive through the road world as a video file, rendered once and kept in the user's cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive
from vlm_perception.datasets.roadworld.world import World
from vlm_perception.engines.machine import cache_directory

WORLD_VERSION = 1
"""Raise it when the same seed gives other pixels: clips in the cache are then rendered anew."""
JPEG_QUALITY = 90


class RenderingStoppedError(RuntimeError):
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
    stopped: Callable[[], bool] = lambda: False,
) -> Path:
    """Path of a Motion-JPEG file of the drive; renders it with a progress bar if it is missing.

    Args:
        width: Of the frames, in pixels.
        height: Of the frames, in pixels.
        fps: Frames a second.
        seconds: Length of the drive.
        seed: Of the drive.
        stopped: Asked after each frame: whether to end without a clip.

    Raises:
        OSError: The cache cannot be written.
        RenderingStoppedError: It was stopped.
    """
    name = f"roadworld-v{WORLD_VERSION}-{seed}-{width}x{height}-{fps}fps-{seconds:g}s.avi"
    path = cache_directory() / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{os.getpid()}-{name}")
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(partial_path), fourcc, float(fps), (width, height))
    if not writer.isOpened():
        raise OSError(f"cannot write {partial_path}: this OpenCV cannot encode Motion JPEG")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, JPEG_QUALITY)
    job = partial(frame, width=width, height=height, fps=fps, seconds=seconds, seed=seed)
    count = round(fps * seconds)
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    pool = ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_ignore_interrupts)
    try:
        with Progress(transient=True) as progress:
            bar = progress.add_task("Rendering the road world (once)", total=count)
            for image in pool.map(job, range(count), chunksize=5):
                if stopped():
                    raise RenderingStoppedError(f"{path} was not finished")
                writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
                progress.advance(bar)
        writer.release()
        partial_path.rename(path)
    finally:
        pool.shutdown(cancel_futures=True)
        writer.release()
        partial_path.unlink(missing_ok=True)
    return path


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that waits for the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
