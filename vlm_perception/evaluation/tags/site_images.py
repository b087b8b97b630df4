# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot's camera sees at its site: images of recordings, not one moment over and over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle.bundle import VISION_GRAPH, ModelBundle
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.replay.recordings.source import (
    CameraFrame,
    MediaSource,
    Source,
    Span,
    open_source,
)

EVERY_S = 0.5
"""Of a recording; frames that follow each other faster show the same things."""
MOST = 2000
"""More images cost time and hardly move a threshold."""
SAME = 0.01
"""Cosine distance of two images that show the same, as a share of the usual distance of two."""
PAIRS = 2000
THUMBNAIL = 300
"""Pixels of its longer edge."""
QUALITY = 80


@dataclass(frozen=True)
class SiteImage:
    """One image as the encoder sees it, and as people do."""

    recording: int
    """Its place among the recordings."""
    recording_name: str
    place: str
    """The second of the recording, or the number of the image in it."""
    pooled: NDArray[np.float32]
    """[D], L2-normalised."""
    thumbnail: bytes
    """A JPEG file."""


@dataclass
class Site:
    """Images of a site, in the order in which they were recorded."""

    images: list[SiteImage] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """A sentence for each image that could not be read."""
    losses: list[str] = field(default_factory=list)
    """What recordings lack."""
    same: int = 0
    """Images that were left out because they show what others do."""

    @property
    def pooled(self) -> NDArray[np.float32]:
        """[N, D]."""
        return np.stack([image.pooled for image in self.images])


def open_recordings(paths: Sequence[Path], topic: str | None) -> list[Source]:
    """Open folders of images, bags and videos.

    Raises:
        ReplayError: one is missing, holds no images, or those of several cameras.
    """
    return [open_source(path, topic) for path in paths]


def look(bundle: ModelBundle, sources: Sequence[Source], console: Console) -> Site:
    """Encode images of recordings, with a progress bar.

    Args:
        bundle: whose vision tower encodes.
        sources: gone through from beginning to end.
        console: for the bar.

    Returns:
        MOST images or fewer, evenly spread over the recordings, no two of which show the same.
    """
    site = Site()
    engine = bundle.engine(VISION_GRAPH, threads=2)
    preprocessor = Preprocessor(bundle.manifest.image)
    stride, due = 1, 0
    with Progress(console=console, transient=True) as progress:
        for recording, source in enumerate(sources):
            bar, first_ns = progress.add_task(source.name, total=source.expected), None
            for frame in _spaced(source):
                progress.update(bar, completed=frame.index + 1)
                first_ns = frame.time_ns if first_ns is None else first_ns
                due = (due + 1) % stride
                if due:
                    continue
                if frame.pixels is None:
                    site.broken.append(
                        f"image {frame.index + 1} of {source.name}: {frame.fault_text}"
                    )
                    continue
                image, _ = preprocessor.run(frame.pixels)
                pooled = engine.run({"image": image})["pooled"][0]
                after_s = (frame.time_ns - first_ns) * 1e-9
                place = f"{after_s:.1f} s" if _timed(source) else f"image {frame.index + 1}"
                small = _thumbnail(frame.pixels)
                site.images.append(SiteImage(recording, source.name, place, pooled, small))
                if len(site.images) > MOST:
                    site.images, stride = site.images[::2], stride * 2
            site.losses += source.losses
    different = distinct(site.pooled) if site.images else []
    site.same = len(site.images) - len(different)
    site.images = [site.images[index] for index in different]
    return site


def distinct(pooled: NDArray[np.float32]) -> list[int]:
    """Rows that are not nearly equal to an earlier one, such as those of a camera that stands.

    Args:
        pooled: [N, D], L2-normalised.
    """
    one, other = np.random.default_rng(0).integers(0, len(pooled), (2, PAIRS))
    usual = float(np.median(1.0 - (pooled[one] * pooled[other]).sum(axis=1)))
    kept: list[int] = []
    for index, row in enumerate(pooled):
        if not kept or 1.0 - float((pooled[kept] @ row).max()) > SAME * usual:
            kept.append(index)
    return kept


def _spaced(source: Source) -> Iterator[CameraFrame]:
    """Frames of a recording, EVERY_S apart; every image of a folder, as those have no times."""
    due_ns = 0
    for frame in source.frames(Span()):
        if not _timed(source) or frame.time_ns >= due_ns:
            due_ns = frame.time_ns + round(EVERY_S * 1e9)
            yield frame


def _timed(source: Source) -> bool:
    return not isinstance(source, MediaSource) or source.timed


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return file.tobytes()
