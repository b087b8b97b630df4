# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Video files: each image with the time that the container gives it, and what damage has cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.media.file_kind import edited_s, lists_its_images, why_no_video
from vlm_perception.media.media import Media, MediaError, Picture

DAMAGED_IN_A_ROW = 300
"""Images without one between them that can be decoded, after which no more is expected."""
UNEVEN = 0.5
"""Share of the usual interval by which another one may differ."""
LEAST_MISSING_S = 2.0
"""Containers that state a length only do so for their sound, too, which may be longer."""
LEAST_MISSING_SHARE = 0.05
SAME_TIME_S = 1e-6
REPEATED_S = 0.001
"""Between images that have the same time in the container."""
STEPS_BACK_S = 1.0
"""A time that is earlier by more than this starts over."""


@dataclass(frozen=True)
class Index:
    """What a video file holds, without a look at the images themselves."""

    times_s: NDArray[np.float64]
    """When each image is shown, rising, from 0."""
    packets: int
    """Images with those that are only there for others to be decoded."""
    promised: int
    """Images that the container lists; 0 where it does not."""
    length_s: float
    """The container's value; 0 if it has none."""

    @property
    def steps_s(self) -> NDArray[np.float64]:
        """Intervals between the images."""
        return np.diff(self.times_s)

    @property
    def usual_s(self) -> float:
        """The usual interval."""
        return float(np.median(self.steps_s)) if len(self.steps_s) else 0.0


class _Read(NamedTuple):
    """An image as OpenCV hands it over."""

    stamp_s: float
    """Its time in the container."""
    damaged: int
    """Images before it that could not be decoded."""
    image: NDArray[np.uint8]


class VideoFile(Media):
    """A video that OpenCV reads."""

    def __init__(self, location: str) -> None:
        """Open a video and look at its first image.

        Args:
            location: Path of a file, or the address of one.

        Raises:
            MediaError: It cannot be read.
        """
        self.name = self._location = location
        self._packets = self._is_motion_jpeg()
        self._stated_hz = self._stated_rate()
        self._last_s = 0.0
        if next((picture for picture in self.pictures() if not picture.fault), None) is None:
            raise MediaError(why_no_video(Path(location)))

    @cached_property
    def index(self) -> Index | None:
        """What the container lists; None if this OpenCV does not provide it.

        It is read to its end for that, without decoding.
        """
        capture = cv2.VideoCapture(self._location)
        try:
            if not capture.set(cv2.CAP_PROP_FORMAT, -1):
                return None
            times, failed = [], 0
            while failed < DAMAGED_IN_A_ROW:
                if capture.grab():
                    times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
                    failed = 0
                else:
                    failed += 1
            promised = max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            capture.release()
        shown = np.sort(np.array(times, np.float64))
        shown -= shown[:1]
        length = promised / self._stated_hz if self._stated_hz else 0.0
        edited = edited_s(Path(self._location))
        if edited is not None and edited < length:
            length = edited
            shown = shown[shown < edited - SAME_TIME_S]
        return Index(shown, len(times), promised, length)

    @property
    def rate_hz(self) -> float | None:
        """As the file states it; where the images are not even, how many there are in a second."""
        if self.index is None or not self.notes:
            return self._stated_hz
        return (len(self.index.times_s) - 1) / float(self.index.times_s[-1])

    @property
    def count(self) -> int | None:
        """How many images there should be."""
        return len(self.index.times_s) if self.index else None

    @property
    def timed(self) -> bool:
        """Whether the container gives each image its own time."""
        return self.index is not None and bool(self.index.times_s[-1:] > 0)

    @property
    def notes(self) -> list[str]:
        """Say so where the images are not evenly spaced."""
        index = self.index
        if index is None or not index.usual_s:
            return []
        least, most = float(index.steps_s.min()), float(index.steps_s.max())
        if max(index.usual_s - least, most - index.usual_s) <= UNEVEN * index.usual_s:
            return []
        return [
            f"the images are {1e3 * least:.0f} to {1e3 * most:.0f} ms apart: each keeps its "
            "timestamp from the file"
        ]

    @property
    def losses(self) -> list[str]:
        """Say so where the file ends before its time."""
        index = self.index
        if index is None or not self.timed:
            return []
        if index.times_s[-1] - self._last_s > 2 * index.usual_s:
            ended = f"no image after {self._last_s:.1f} s can be decoded"
        elif self._is_cut_off(index):
            ended = f"it ends after {index.times_s[-1]:.1f} s"
        else:
            return []
        return [f"{self.name} should last {index.length_s:.1f} s, but {ended}: it is damaged"]

    def _is_cut_off(self, index: Index) -> bool:
        missing_s = index.length_s - float(index.times_s[-1]) - index.usual_s
        if lists_its_images(Path(self._location)):
            return index.packets < index.promised and missing_s > index.usual_s / 2
        largest = float(index.steps_s.max(initial=0.0))
        share = LEAST_MISSING_SHARE * index.length_s
        return missing_s > max(LEAST_MISSING_S, 2 * largest, share)

    def pictures(self) -> Iterator[Picture]:
        """Yield the images from the first on; between them those that cannot be decoded."""
        times = _Times()
        for stamp_s, damaged, image in _without_leaps(self._read()):
            before_s = times.last_s
            time_s = times.add(stamp_s)
            yield from self._damaged(damaged, before_s, time_s)
            if self._packets:
                yield Picture(jpeg=image.tobytes(), time_s=time_s)
            else:
                yield Picture(pixels=image, time_s=time_s)
        self._last_s = times.last_s or 0.0

    def _read(self) -> Iterator[_Read]:
        capture = cv2.VideoCapture(self._location)
        if self._packets:
            capture.set(cv2.CAP_PROP_FORMAT, -1)
        damaged = 0
        try:
            while damaged < DAMAGED_IN_A_ROW:
                found, image = capture.read()
                if found:
                    stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                    yield _Read(stamp_s, damaged, np.asarray(image, dtype=np.uint8))
                damaged = 0 if found else damaged + 1
        finally:
            capture.release()

    def _damaged(self, count: int, before_s: float | None, next_s: float) -> Iterator[Picture]:
        """So many images that could not be decoded, spread between their neighbours."""
        begin_s = next_s if before_s is None else before_s
        for place in range(1, count + 1):
            time_s = begin_s + place * (next_s - begin_s) / (count + 1)
            text = f"an image of {self.name} at {time_s:.2f} s is damaged"
            yield Picture(time_s=time_s, fault="damaged", fault_text=text)

    def _stated_rate(self) -> float | None:
        """Frame rate that the file states; some state none, or nonsense."""
        capture = cv2.VideoCapture(self._location)
        try:
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            return rate if 0.1 <= rate <= 1000.0 else None
        finally:
            capture.release()

    def _is_motion_jpeg(self) -> bool:
        """Ask OpenCV for an undecoded image; not every version of it gives one."""
        capture = cv2.VideoCapture(self._location)
        try:
            if not capture.isOpened() or not capture.set(cv2.CAP_PROP_FORMAT, -1):
                return False
            found, packet = capture.read()
            start = packet.tobytes()[:2] if found else b""
            return start == b"\xff\xd8" and cv2.imdecode(packet, cv2.IMREAD_COLOR) is not None
        finally:
            capture.release()


def _without_leaps(images: Iterator[_Read]) -> Iterator[_Read]:
    """The same images; a time that is not between its neighbours' is put there, if these rise."""
    held = next(images, None)
    if held is None:
        return
    before_s = held.stamp_s
    for image in images:
        if before_s <= image.stamp_s and not before_s <= held.stamp_s <= image.stamp_s:
            held = held._replace(stamp_s=(before_s + image.stamp_s) / 2)
        before_s = held.stamp_s
        yield held
        held = image
    yield held


class _Times:
    """Ascending times from 0, whatever the container gives."""

    def __init__(self) -> None:
        self.last_s: float | None = None
        self._stamp_s = self._shift_s = 0.0

    def add(self, stamp_s: float) -> float:
        """The time of the next image, for which the container gives this many seconds."""
        if self.last_s is None:
            self._shift_s = -stamp_s
        elif stamp_s < self._stamp_s - STEPS_BACK_S:
            # Concatenated recordings, each with its own start.
            self._shift_s = self.last_s + REPEATED_S - stamp_s
        time_s = stamp_s + self._shift_s
        if self.last_s is not None:
            time_s = max(time_s, self.last_s + REPEATED_S)
        self._stamp_s, self.last_s = stamp_s, time_s
        return time_s
