# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Camera frames in the order in which they were recorded: from a bag, a video file or a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from vlm_perception.perception.image_conversion import ENCODINGS, ImageError, to_rgb
from vlm_perception.perception.media import Media, MediaError, Picture, open_media
from vlm_perception.replay.bag import FOREVER_NS, METADATA, Bag
from vlm_perception.replay.errors import ReplayError
from vlm_perception.replay.files import is_recording
from vlm_perception.replay.messages import message_types, stamp_ns
from vlm_perception.replay.storage import ROS1, Message, Topic

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
VIDEO_TOPIC = "/image/compressed"
VIDEO_FRAME_ID = "camera_optical_frame"
FOLDER_RATE_HZ = 30.0
VIDEO_START_NS = 1_000_000_000
"""Stamp of a video's first frame: 0 would mean that the time is unknown."""
JPEG_QUALITY = 90
LISTED_AT_MOST = 20
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")


@dataclass(frozen=True)
class CameraFrame:
    """One camera image as it was recorded."""

    index: int
    """Its place among all images of the topic, from 0."""
    time_ns: int
    """When it was recorded, which is when it arrives."""
    stamp_ns: int
    frame_id: str
    pixels: NDArray[np.uint8] | None
    """uint8 RGB [height, width, 3]; None where it cannot be read."""
    message: bytes
    """The image as a serialized ROS 2 message; empty where there is none."""
    fault: str = ""
    """Why it cannot be read, in a word: as nodes count it in their diagnostics."""
    fault_text: str = ""


@dataclass(frozen=True)
class Span:
    """Which part of a recording is replayed, in seconds from its first image."""

    start_s: float = 0.0
    duration_s: float | None = None


class Source(Protocol):
    """A recording that camera frames come from."""

    name: str
    topic: str
    type_name: str
    camera: Topic
    """The topic as a bag lists it."""
    expected: int | None
    """How many images the whole recording should hold, where that is known."""
    notes: list[str]
    losses: list[str]

    def frames(self, span: Span, skip: int = 0) -> Iterator[CameraFrame]:
        """Frames of a part of the recording; the first `skip` of them are left out."""
        ...


def open_source(path: Path, topic: str | None = None) -> Source:
    """Open whatever camera frames may come from.

    Args:
        path: a bag's file or folder, a video file, or a folder of images.
        topic: the camera topic of a bag; where None, the only one that the bag has.

    Raises:
        ReplayError: there are no camera images, or those of more than one camera.
    """
    holds_bag = path.is_dir() and (
        (path / METADATA).exists() or any(is_recording(file) for file in path.iterdir())
    )
    if holds_bag or is_recording(path):
        return BagSource(Bag(path), topic)
    if any(suffix in ARCHIVES for suffix in path.suffixes[-2:]) and path.is_file():
        raise ReplayError(f"{path} is an archive; unpack it and give the folder that it held")
    if topic is not None:
        raise ReplayError(f"{path} is no bag and has no topics; leave --topic out")
    try:
        return MediaSource(path, open_media(str(path), packets=True))
    except MediaError as error:
        raise ReplayError(str(error)) from error


class BagSource:
    """The images of one topic of a bag."""

    def __init__(self, bag: Bag, topic: str | None) -> None:
        """Find the camera topic.

        Raises:
            ReplayError: there is none, or more than one and none was named.
        """
        self.bag = bag
        self.name = bag.path.resolve().name
        chosen = _named(bag, topic) if topic else _only_camera(bag)
        self.camera = chosen
        self.topic, self.type_name = chosen.name, chosen.type_name
        self.expected: int | None = chosen.count
        self.notes, self.losses = bag.notes, bag.losses
        first = next(iter(bag.messages([chosen.name])), None)
        self._first_ns = first.time_ns if first else 0

    def frames(self, span: Span, skip: int = 0) -> Iterator[CameraFrame]:
        """Frames of a part of the bag."""
        for index, message in enumerate(self.messages([self.topic], span)):
            if index >= skip:
                yield _frame(index, message, self.camera)

    def messages(self, names: Collection[str], span: Span) -> Iterator[Message]:
        """Messages of these topics in a part of the bag."""
        start_ns = self._first_ns + round(span.start_s * 1e9) if span.start_s else 0
        stop_ns = FOREVER_NS
        if span.duration_s is not None:
            stop_ns = self._first_ns + round((span.start_s + span.duration_s) * 1e9)
        return self.bag.messages(names, start_ns, stop_ns)


class MediaSource:
    """The images of a video file or of a folder, at the rate of the video."""

    topic, type_name = VIDEO_TOPIC, COMPRESSED_IMAGE
    camera = Topic(VIDEO_TOPIC, COMPRESSED_IMAGE)

    def __init__(self, path: Path, media: Media) -> None:
        """Take over an opened video or folder.

        Raises:
            ReplayError: it is a live camera, which cannot be replayed.
        """
        if media.live:
            raise ReplayError("a webcam cannot be replayed; `vlm-perception demo 0` records a bag")
        self.name = path.resolve().name
        self.expected: int | None = None
        self.losses: list[str] = []
        self._media = media
        self._rate_hz = media.rate_hz or FOLDER_RATE_HZ
        where = "as the file says" if media.rate_hz else "as nothing else is said"
        self.notes = [f"the images are taken at {self._rate_hz:g} Hz, {where}"]

    def frames(self, span: Span, skip: int = 0) -> Iterator[CameraFrame]:
        """Frames of a part of the video."""
        begin = round(span.start_s * self._rate_hz)
        pictures = enumerate(self._media.pictures())
        index = 0
        while True:
            try:
                position, picture = next(pictures)
            except StopIteration:
                return
            except MediaError as error:
                self.losses.append(str(error))
                return
            if position < begin:
                continue
            elapsed = (position - begin) / self._rate_hz
            if span.duration_s is not None and elapsed >= span.duration_s - 1e-9:
                return
            if index >= skip:
                yield self._frame(index, position, picture)
            index += 1

    def _frame(self, index: int, position: int, picture: Picture) -> CameraFrame:
        stamp_ns = VIDEO_START_NS + round(position * 1e9 / self._rate_hz)
        file = picture.encoded(JPEG_QUALITY)
        message = compressed_image(stamp_ns, VIDEO_FRAME_ID, file)
        try:
            pixels = to_rgb(message)
        except ImageError as error:
            return CameraFrame(
                index, stamp_ns, stamp_ns, VIDEO_FRAME_ID, None, b"", error.kind, str(error)
            )
        data = bytes(message_types().serialize_cdr(message, COMPRESSED_IMAGE))
        return CameraFrame(index, stamp_ns, stamp_ns, VIDEO_FRAME_ID, pixels, data)


@cache
def _ros1_types() -> Typestore:
    return get_typestore(Stores.ROS1_NOETIC)


def image_header(time_ns: int, frame_id: str) -> Any:
    """The header of an image."""
    types = message_types().types
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def compressed_image(time_ns: int, frame_id: str, file: bytes) -> Any:
    """A sensor_msgs/CompressedImage of a JPEG file."""
    return message_types().types[COMPRESSED_IMAGE](
        header=image_header(time_ns, frame_id),
        format="jpeg",
        data=np.frombuffer(file, dtype=np.uint8),
    )


def _named(bag: Bag, name: str) -> Topic:
    topic = bag.topic(name)
    if topic is None:
        raise ReplayError(f"{bag.path} has no topic {name}; it has\n{_listing(bag, bag.topics)}")
    if topic.type_name not in (IMAGE, COMPRESSED_IMAGE):
        raise ReplayError(f"{topic.name} holds {topic.type_name}, and images are needed")
    if not topic.count:
        raise ReplayError(f"{topic.name} of {bag.path} holds no message")
    return topic


def _only_camera(bag: Bag) -> Topic:
    images = [each for each in bag.topics if each.type_name in (IMAGE, COMPRESSED_IMAGE)]
    cameras = [each for each in images if each.count and _shows_colours(bag, each)]
    # The same camera raw and compressed: raw is what the nodes read by default.
    of_one = {each.name.removesuffix("/compressed") for each in cameras}
    if len(of_one) == 1:
        return max(cameras, key=lambda each: (each.count, each.type_name == IMAGE))
    if cameras:
        raise ReplayError(
            f"{bag.path} has {len(of_one)} cameras; choose one with --topic:\n"
            f"{_listing(bag, cameras)}"
        )
    what = "only images that show no colours" if any(each.count for each in images) else "no images"
    lost = f" ({'; '.join(bag.losses)})" if bag.losses else ""
    raise ReplayError(f"{bag.path} holds {what}{lost}; its topics are\n{_listing(bag, bag.topics)}")


def _shows_colours(bag: Bag, topic: Topic) -> bool:
    """Whether the first image is that of a camera, and not of depth or disparity."""
    first = next(iter(bag.messages([topic.name])), None)
    if first is None:
        return False
    try:
        message = _read(first, topic)
    except (SerdeError, ValueError, AssertionError):
        return True  # A broken first image says nothing of the others.
    if topic.type_name == IMAGE:
        return message.encoding in ENCODINGS
    return "compressedDepth" not in message.format


def _listing(bag: Bag, topics: Any) -> str:
    """Topics with counts and rates, a line each; a rate is that over the whole bag's messages."""
    lines = []
    for topic in list(topics)[:LISTED_AT_MOST]:
        count = f"{topic.count} messages{_rate(bag, topic)}"
        lines.append(f"  {topic.name}  {topic.type_name}  {count}")
    if len(topics) > LISTED_AT_MOST:
        lines.append(f"  and {len(topics) - LISTED_AT_MOST} more")
    return "\n".join(lines) or "  none"


def _rate(bag: Bag, topic: Topic) -> str:
    if topic.type_name not in (IMAGE, COMPRESSED_IMAGE) or topic.count < 2:
        return ""
    first = last = None
    for message in bag.messages([topic.name]):
        first = message.time_ns if first is None else first
        last = message.time_ns
    if first is None or last is None or last <= first:
        return ""
    return f"  {(topic.count - 1) / ((last - first) / 1e9):.1f} Hz"


def _read(message: Message, topic: Topic) -> Any:
    if topic.encoding == ROS1:
        return _ros1_types().deserialize_ros1(message.data, topic.type_name)
    return message_types().deserialize_cdr(message.data, topic.type_name)


def _as_ros2(image: Any, type_name: str) -> bytes:
    """An image of ROS 1 as a serialized message of ROS 2; only the header differs."""
    header = image_header(stamp_ns(image.header.stamp), str(image.header.frame_id))
    fields = {name: value for name, value in vars(image).items() if name != "header"}
    message = message_types().types[type_name](header=header, **fields)
    return bytes(message_types().serialize_cdr(message, type_name))


def _frame(index: int, message: Message, topic: Topic) -> CameraFrame:
    try:
        read = _read(message, topic)
    # What rosbags raises on a message that is not what its type says.
    except (SerdeError, ValueError, AssertionError, IndexError, UnicodeDecodeError) as error:
        said = f"the message is no {topic.type_name}: {error or type(error).__name__}"
        return CameraFrame(index, message.time_ns, 0, "", None, b"", "bad_message", said)
    stamp = stamp_ns(read.header.stamp)
    frame_id = str(read.header.frame_id)
    data = message.data
    if topic.encoding == ROS1:
        data = _as_ros2(read, topic.type_name)
    try:
        pixels = to_rgb(read)
    except ImageError as error:
        return CameraFrame(
            index, message.time_ns, stamp, frame_id, None, data, error.kind, str(error)
        )
    return CameraFrame(index, message.time_ns, stamp, frame_id, pixels, data)
