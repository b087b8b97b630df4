# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A camera that misbehaves on request: rate, size, encoding, stamps, and silence."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.files.clip import frame
from vlm_perception.evaluation.chaos.testbed.participant import Participant

RAW, COMPRESSED = "raw", "compressed"
JPEG = "jpeg"
FRAMES = 8
SECONDS = 20.0
SEED = 7


@dataclass(frozen=True)
class Manner:
    """How the camera behaves."""

    rate_hz: float = 30.0
    width: int = 640
    height: int = 360
    encoding: str = "rgb8"
    """rgb8, bgr8, mono8 or yuv422_yuy2."""
    stamp: Callable[[int, int], int] = lambda index, now_ns: now_ns
    """Makes the stamp of an image of its number and of the time."""
    copies: int = 1
    """How often each image is sent."""
    damaged: Callable[[int], bool] = lambda index: False
    """Whether the middle is missing from the JPEG of this number."""


@dataclass(frozen=True)
class Sent:
    """An image that was sent."""

    at_s: float
    stamp_ns: int


class Camera:
    """Publishes the road world from a thread of its own; a context manager."""

    def __init__(self, participant: Participant, transport: str = RAW) -> None:
        """Prepare; nothing is sent before start().

        Args:
            participant: through whom.
            transport: `raw`, on `image`, or `compressed`, JPEG on `image/compressed`.
        """
        self._participant = participant
        self._compressed = transport == COMPRESSED
        self._lock = threading.Lock()
        self._manner = Manner()
        self._clock: Callable[[], int] = time.time_ns
        self._going, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self.sent: list[Sent] = []

    def __enter__(self) -> Camera:
        """Advertise the topic and prepare the images."""
        from sensor_msgs.msg import CompressedImage, Image  # noqa: PLC0415

        from vlm_perception.nodes.io.qos import newest  # noqa: PLC0415

        self._type: Any = CompressedImage if self._compressed else Image
        self.topic = "image/compressed" if self._compressed else "image"
        self._profile = newest(1)
        self.join()
        _prepared(self._manner, self._compressed)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to send, and be on the topic no more."""
        self._ended.set()
        self._going.set()
        self._thread.join()
        self.leave()

    def join(self) -> None:
        """Be on the topic, as from the beginning."""
        self._publisher = self._participant.publisher(self._type, self.topic, self._profile)

    def leave(self) -> None:
        """Leave the topic to another camera."""
        self.stop()
        with self._lock:
            self._participant.remove(self._publisher)

    def start(self) -> None:
        """Send images."""
        self._going.set()

    def stop(self) -> None:
        """Send none."""
        self._going.clear()

    def behave(self, **changes: Any) -> None:
        """Change some of the manner, from the next image on."""
        with self._lock:
            manner = replace(self._manner, **changes)
        _prepared(manner, self._compressed)
        with self._lock:
            self._manner = manner

    def behave_well(self) -> None:
        """As a camera should."""
        with self._lock:
            self._manner = Manner()

    def keep_time_by(self, clock: Callable[[], int]) -> None:
        """Take the stamps from this clock, in nanoseconds."""
        self._clock = clock

    def between(self, start_s: float, end_s: float) -> list[Sent]:
        """Return the images that were sent within a time."""
        return [sent for sent in list(self.sent) if start_s < sent.at_s <= end_s]

    def _run(self) -> None:
        index, due = 0, time.monotonic()
        while not self._ended.is_set():
            if not self._going.is_set():
                self._going.wait()
                due = time.monotonic()
                continue
            with self._lock:
                manner = self._manner
            self._send(manner, index)
            index += 1
            due = max(due + 1.0 / manner.rate_hz, time.monotonic() - 1.0 / manner.rate_hz)
            self._ended.wait(max(0.0, due - time.monotonic()))

    def send_jpeg(self, data: bytes) -> None:
        """Send these bytes as one image more."""
        message = self._type(format="jpeg", data=_bytes(data))
        _stamp(message, self._clock())
        self._publisher.publish(message)

    def _send(self, manner: Manner, index: int) -> None:
        pictures = _prepared(manner, self._compressed)
        data, step = pictures[_to_and_fro(index)]
        if self._compressed:
            damaged = manner.damaged(index)
            message = self._type(format="jpeg", data=_without_middle(data) if damaged else data)
        else:
            message = self._type(
                height=manner.height,
                width=manner.width,
                encoding=manner.encoding,
                is_bigendian=0,
                step=step,
                data=data,
            )
        stamp_ns = max(0, manner.stamp(index, self._clock()))
        _stamp(message, stamp_ns)
        with self._lock:
            if not self._going.is_set():
                return
            self.sent.append(Sent(time.monotonic(), stamp_ns))
            for _ in range(manner.copies):
                self._publisher.publish(message)


def _stamp(message: Any, stamp_ns: int) -> None:
    message.header.frame_id = "camera_optical_frame"
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def write_pictures(folder: Path) -> Path:
    """Write what the camera shows as files, for one that plays files; returns the folder."""
    folder.mkdir()
    for index in range(2 * FRAMES - 2):
        rgb = _frame(_to_and_fro(index))
        cv2.imwrite(str(folder / f"{index:02d}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def _to_and_fro(index: int) -> int:
    """0, 1 .. FRAMES - 1 and back, so that the image never jumps."""
    place = index % (2 * FRAMES - 2)
    return place if place < FRAMES else 2 * FRAMES - 2 - place


def _prepared(manner: Manner, compressed: bool) -> list[tuple[array[int], int]]:
    encoding = JPEG if compressed else manner.encoding
    return _pictures(manner.width, manner.height, encoding)


@lru_cache(maxsize=8)
def _pictures(width: int, height: int, encoding: str) -> list[tuple[array[int], int]]:
    """Data and step of each image; the step of a JPEG has no meaning."""
    made = []
    for index in range(FRAMES):
        picture = np.ascontiguousarray(cv2.resize(_frame(index), (width, height)))
        pixels = _encoded(picture.astype(np.uint8), encoding)
        made.append((_bytes(pixels.tobytes()), pixels.nbytes // height))
    return made


def _bytes(data: bytes) -> array[int]:
    # What the messages take without looking at each element.
    return array("B", data)


def _without_middle(jpeg: array[int]) -> array[int]:
    """What is left of a JPEG when packets of its middle were lost on the way."""
    size = len(jpeg)
    return jpeg[: 4 * size // 10] + jpeg[7 * size // 10 :]


def _frame(index: int) -> NDArray[np.uint8]:
    return frame(index, width=640, height=360, fps=30, seconds=SECONDS, seed=SEED)


def _encoded(rgb: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    if encoding == JPEG:
        return np.asarray(cv2.imencode(".jpg", rgb[..., ::-1])[1], np.uint8)
    if encoding == "bgr8":
        return np.ascontiguousarray(rgb[..., ::-1])
    if encoding == "mono8":
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    if encoding == "yuv422_yuy2":
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2), np.uint8)
    return rgb
