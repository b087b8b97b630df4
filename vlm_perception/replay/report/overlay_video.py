# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the scenes of a recorded bag onto its images, after the run, when no core is measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError

from vlm_perception.common.disk_space import check_room
from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_message import to_rgb
from vlm_perception.messages.codec import MessageError, stamp_ns
from vlm_perception.messages.rosbags import unreadable
from vlm_perception.messages.tables import LOCATIONS
from vlm_perception.messages.tables import SCENE as SCENES
from vlm_perception.perception.rendering.overlay import draw_scene
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.types import LocatedObjects, Scene

IMAGE, SCENE, FOLLOWED = "image/compressed", "scene", "locations"
LONGEST_GAP_S = 5.0
"""A longer silence of the camera is shortened to this in the video."""

T = TypeVar("T")
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], bool]
"""Gets the frames that are done and those in all; says whether to go on."""


@dataclass(frozen=True)
class Written:
    """What a video holds."""

    frames: int
    of_frames: int
    cut: bool = False
    """Whether images were left out to be done in time."""


def write_overlay(
    bag: Path,
    video: Path,
    *,
    rate_hz: float,
    seconds_to_spend: float | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write a video of the bag's images with the scene of its stamp drawn on each.

    Args:
        bag: An mcap file that holds `image/compressed` and `scene`.
        video: The .mp4 to write; replaced only when the new one is ready.
        rate_hz: Frames a second of the recording.
        seconds_to_spend: When given, images are left out so that it ends about then.
        progress: Told after each frame.

    Returns:
        How many of the bag's images were drawn; 0 when it holds no image or no scene.

    Raises:
        ReplayError: the bag cannot be read.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(AnyReader([bag]))
        except AnyReaderError as error:
            raise ReplayError(f"{bag} cannot be read: {error}") from error
        scenes, followed = _scenes_by_stamp(reader), _followed_by_stamp(reader)
        total = _count(reader, IMAGE)
        if not scenes or not total:
            return Written(0, total)
        every = 1
        writer: VideoWriter | None = None
        scene: Scene | None = None
        located: LocatedObjects | None = None
        drawn = 0
        cut = False
        for index, (stamp, image) in enumerate(_images(reader)):
            if index % every:
                cut = True
                continue
            picture = _decode(image)
            if picture is None:
                continue
            writer = writer or stack.enter_context(
                VideoWriter(video, picture.shape[1], picture.shape[0], rate_hz)
            )
            # An image that was dropped shows what was known when it came.
            scene, located = scenes.get(stamp, scene), followed.get(stamp, located)
            writer.add(stamp, _drawn(picture, scene, located))
            drawn += 1
            spent = time.monotonic() - started
            if seconds_to_spend is not None:
                if spent > seconds_to_spend:
                    cut = True
                    break
                every = _stride(drawn, index, total, spent, seconds_to_spend)
            if progress is not None and not progress(index + 1, total):
                cut = True
                break
    return Written(drawn, total, cut)


def _stride(drawn: int, index: int, total: int, spent: float, limit: float) -> int:
    """How many images to step on so that the rest fits into the time that is left."""
    affordable = (limit - spent) / max(spent / drawn, 1e-6)
    return max(1, int(np.ceil((total - index) / max(affordable, 1.0))))


def _scenes_by_stamp(reader: Any) -> dict[int, Scene]:
    """The first scene of each stamp: later ones are heartbeats, which repeat it."""
    scenes: dict[int, Scene] = {}
    for scene in _read(reader, SCENE, SCENES.read):
        scenes.setdefault(scene.stamp_ns, scene)
    return scenes


def _followed_by_stamp(reader: Any) -> dict[int, LocatedObjects]:
    """The last message of each stamp: it tells what was lost in the end."""
    return {objects.stamp_ns: objects for objects in _read(reader, FOLLOWED, LOCATIONS.read)}


def _read(reader: Any, topic: str, read: Callable[[Any], T]) -> Iterator[T]:
    """What a topic's messages hold, but for those that the nodes refuse, too."""
    skipped, why = 0, ""
    for connection, data in _messages(reader, topic):
        try:
            held = read(_message(reader, data, connection.msgtype))
        except MessageError as error:
            skipped, why = skipped + 1, str(error)
        else:
            yield held
    if skipped:
        _log.warning("%s: %d messages were skipped, the last one because %s", topic, skipped, why)


def _message(reader: Any, data: bytes, type_name: str) -> Any:
    try:
        return reader.deserialize(data, type_name)
    # For a message that does not match its type, readers raise nearly anything.
    except Exception as error:
        raise unreadable(type_name, error) from error


def _images(reader: Any) -> Iterator[tuple[int, Any]]:
    return _read(reader, IMAGE, lambda message: (stamp_ns(message.header.stamp), message))


def _messages(reader: Any, topic: str) -> Iterator[tuple[Any, bytes]]:
    connections = _connections(reader, topic)
    # rosbags takes none for all.
    for connection, _, data in reader.messages(connections) if connections else ():
        yield connection, data


def _connections(reader: Any, topic: str) -> list[Any]:
    return [each for each in reader.connections if each.topic.lstrip("/") == topic]


def _count(reader: Any, topic: str) -> int:
    return sum(int(each.msgcount) for each in _connections(reader, topic))


def _decode(image: Any) -> NDArray[np.uint8] | None:
    """RGB pixels of a compressed image, or nothing if it is damaged."""
    try:
        return to_rgb(image)
    except ImageError:
        return None


def _drawn(
    picture: NDArray[np.uint8], scene: Scene | None, located: LocatedObjects | None
) -> NDArray[np.uint8]:
    """BGR image with the scene and what was followed drawn on it."""
    rgb = picture if scene is None else draw_scene(picture, scene, located)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), dtype=np.uint8)


class VideoWriter:
    """An mp4 of constant rate; an image is repeated until the next one's time.

    A context manager: the video takes its place when the context ends well.
    """

    def __init__(self, video: Path, width: int, height: int, rate_hz: float) -> None:
        """Begin a video of this size and rate.

        Raises:
            OSError: it cannot be written.
        """
        self._video = video
        self._part = video.with_name(f".{video.stem}.part.mp4")
        # MPEG-4 takes even sizes only.
        self._size = (max(2, width // 2 * 2), max(2, height // 2 * 2))
        self._rate = rate_hz
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        check_room(self._part)
        self._writer = cv2.VideoWriter(str(self._part), codec, rate_hz, self._size)
        if not self._writer.isOpened():
            raise OSError(f"{video} cannot be written: this OpenCV has no MPEG-4 encoder")
        self._first_stamp: int | None = None
        self._written = 0
        self._last: NDArray[np.uint8] | None = None

    def add(self, stamp: int, picture: NDArray[np.uint8]) -> None:
        """Add a BGR image of a time in nanoseconds; one of another size is fitted in.

        Raises:
            DiskFullError: there is no room for more.
        """
        # OpenCV does not report when it cannot write.
        check_room(self._part)
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = _fitted(picture, self._size)
        if self._first_stamp is None:
            self._first_stamp = stamp
        due = round((stamp - self._first_stamp) * self._rate / 1e9)
        gap = min(due - self._written, round(LONGEST_GAP_S * self._rate))
        if self._last is not None:
            for _ in range(gap):
                self._writer.write(self._last)
        self._writer.write(picture)
        self._written = max(due, self._written) + 1
        self._last = picture

    def __enter__(self) -> VideoWriter:
        """Nothing more to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the video."""
        self._writer.release()
        if kind is None:
            self._part.replace(self._video)
        else:
            self._part.unlink(missing_ok=True)


def _fitted(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image without distortion, with black borders."""
    height, width = picture.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    small = cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas
