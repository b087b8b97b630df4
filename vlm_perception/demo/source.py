# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo plays: the road world, a video file, a folder of images or a webcam."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
RATE_HZ = 30.0
FASTEST_HZ = 60.0
WIDTH, HEIGHT = 1280, 720
ROADWORLD_SECONDS = 20.0
ROADWORLD_SEED = 7


class InputError(ValueError):
    """The given video cannot be played; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A source of images that was opened once and found to be playable."""

    description: str
    location: str
    """What the node's parameter `source` gets."""
    rate_hz: float
    seconds: float | None
    """How long it lasts; nothing for a webcam."""
    size: tuple[int, int]
    """Width and height of its first image."""


def open_source(
    video: str | None, *, rate_hz: float | None = None, seed: int = ROADWORLD_SEED
) -> Source:
    """Find out what is to be played, and that it can be.

    Args:
        video: Path of a video or of a folder of images, a webcam's index, or nothing: road world.
        rate_hz: Images a second; None: the source's own rate.
        seed: Of the road world.

    Raises:
        InputError: It is missing, empty, cannot be decoded, or is in use by another program.
    """
    if video is None:
        return _roadworld(rate_hz or RATE_HZ, seed)
    source = _recorded(video)
    return source if rate_hz is None else replace(source, rate_hz=rate_hz)


def _recorded(video: str) -> Source:
    if video.isdecimal():
        return _webcam(int(video))
    path = Path(video).expanduser()
    if path.is_dir():
        return _folder(path.resolve())
    if not path.exists():
        raise InputError(f"{video} does not exist: give a video file, a folder or a webcam index")
    return _file(path.resolve())


def _roadworld(rate_hz: float, seed: int) -> Source:
    from vlm_perception.datasets.roadworld.clip import cached_clip  # noqa: PLC0415

    fps = max(1, round(rate_hz))
    clip = cached_clip(WIDTH, HEIGHT, fps, ROADWORLD_SECONDS, seed)
    return Source("road world", str(clip), rate_hz, ROADWORLD_SECONDS, (WIDTH, HEIGHT))


def _webcam(index: int) -> Source:
    with _quiet_opencv():
        capture = cv2.VideoCapture(index)
        try:
            playable = capture.isOpened() and capture.read()[0]
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            size = _size(capture)
        finally:
            capture.release()
    if not Path(f"/dev/video{index}").exists():
        raise InputError(f"webcam {index} does not exist: `ls /dev/video*` shows those that do")
    if not playable:
        raise InputError(
            f"webcam {index} gives no image: close the program that uses it, and check that you "
            "may read its device (group video)"
        )
    return Source(f"webcam {index}", str(index), _sane_rate(rate), None, size)


def _folder(path: Path) -> Source:
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    with _quiet_opencv():
        first = cv2.imread(str(images[0]))
    if first is None:
        raise InputError(f"{images[0]} cannot be decoded: is it complete, and really an image?")
    seconds = len(images) / RATE_HZ
    size = (first.shape[1], first.shape[0])
    return Source(f"{len(images)} images of {path}", str(path), RATE_HZ, seconds, size)


def _file(path: Path) -> Source:
    with _quiet_opencv():
        capture = cv2.VideoCapture(str(path))
        try:
            readable = capture.isOpened() and capture.read()[0]
            rate = _sane_rate(float(capture.get(cv2.CAP_PROP_FPS)))
            frames = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            size = _size(capture)
        finally:
            capture.release()
    if not readable:
        raise InputError(
            f"{path} cannot be read as a video: it is damaged or its codec is unknown here; "
            f"`ffmpeg -i {path.name} -c:v mjpeg clip.avi` makes one that plays"
        )
    # A stream whose length is not written down ends when the source does.
    return Source(str(path), str(path), rate, frames / rate if frames > 0 else None, size)


def _size(capture: cv2.VideoCapture) -> tuple[int, int]:
    return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def _sane_rate(rate: float) -> float:
    return min(rate, FASTEST_HZ) if rate >= 1 else RATE_HZ


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep the decoders from writing to stderr: the one sentence that follows says it better."""
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(silence)
        os.close(kept)
