# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo plays: the road world, a video file, a folder of images, a camera or a stream."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.media import Media, MediaError
from vlm_perception.media.open_media import is_address, open_media

RATE_HZ = 30.0
FASTEST_HZ = 60.0
WIDTH, HEIGHT = 1280, 720
ROADWORLD_SECONDS = 20.0
ROADWORLD_SEED = 7


class InputError(VlmPerceptionError):
    """The given video cannot be played; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A source of images that was opened once and found to be playable."""

    description: str
    location: str
    """What the node's parameter `source` gets."""
    rate_hz: float
    seconds: float | None
    """How long it lasts; nothing for a camera."""
    size: tuple[int, int]
    """Width and height of its first image."""


def open_source(
    video: str | None, *, rate_hz: float | None = None, seed: int = ROADWORLD_SEED
) -> Source:
    """Find out what is to be played, and that it can be.

    Args:
        video: Path of a video or of a folder of images, a webcam's index or device, the address of
            a stream, or nothing: road world.
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
    try:
        media = open_media(video)
        size = _size(media)
    except MediaError as error:
        raise InputError(str(error)) from error
    rate = _sane_rate(media.rate_hz or 0.0)
    media.close()
    # A stream whose length is not written down ends when the source does.
    seconds = media.count / rate if media.count else None
    # The node runs in another folder.
    path = None if video.isdecimal() or is_address(video) else Path(video).expanduser().resolve()
    return Source(media.name, str(path or video), rate, seconds, size)


def _size(media: Media) -> tuple[int, int]:
    """Width and height of the first image that can be read."""
    for picture in media.pictures():
        with suppress(ImageError):
            if not picture.fault:
                height, width = picture.decoded().shape[:2]
                return width, height
    raise MediaError(f"no image of {media.name} can be decoded: it is damaged")


def _roadworld(rate_hz: float, seed: int) -> Source:
    from vlm_perception.datasets.roadworld.files.clip import cached_clip  # noqa: PLC0415

    fps = max(1, round(rate_hz))
    clip = cached_clip(WIDTH, HEIGHT, fps, ROADWORLD_SECONDS, seed)
    return Source("road world", str(clip), rate_hz, ROADWORLD_SECONDS, (WIDTH, HEIGHT))


def _sane_rate(rate: float) -> float:
    return min(rate, FASTEST_HZ) if rate >= 1 else RATE_HZ
