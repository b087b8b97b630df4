# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Camera frames in the order in which they were recorded: from a bag, a video file or a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.media.image_errors import ImageError
from vlm_perception.media.image_message import ImageOptions, convert
from vlm_perception.media.image_reader import ImageReader
from vlm_perception.media.media import Media, MediaError, Picture
from vlm_perception.media.open_media import open_media
from vlm_perception.messages.codec import MessageError, stamp_ns
from vlm_perception.messages.rosbags import serialized
from vlm_perception.replay.recordings.bag import FOREVER_NS, METADATA, Bag
from vlm_perception.replay.recordings.cameras import choose_camera
from vlm_perception.replay.recordings.clocks import LOOKED_AT, clock_offset_ns
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.image_messages import (
    COMPRESSED_IMAGE,
    compressed_image,
    image_type,
    read_image,
    serialized_image,
)
from vlm_perception.replay.recordings.open_file import is_recording, suffix_by_content
from vlm_perception.replay.storage.compression import OPENERS
from vlm_perception.replay.storage.types import CDR, Message, Topic

VIDEO_TOPIC = "/image/compressed"
VIDEO_FRAME_ID = "camera_optical_frame"
FOLDER_RATE_HZ = 30.0
SAME_TIME_S = 1e-6
VIDEO_START_NS = 1_000_000_000
"""Stamp of a video's first frame: 0 would mean that the time is unknown."""
LATEST_STAMP_NS = 2**31 * 1_000_000_000 - 1
JPEG_QUALITY = 90
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
    """The topic as a bag of ROS 2 lists it."""
    expected: int | None
    """How many images the whole recording should hold, where that is known."""
    clock_offset_ns: int
    """How long after their stamps the images were recorded."""
    images: ImageOptions
    """How to read images that do not describe themselves completely."""
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
    if path.parts and path.parts[0].endswith(":"):
        raise ReplayError(
            "only files are replayed, not addresses: download the video, or record a camera's "
            "stream with `vlm-perception demo ADDRESS`"
        )
    if is_bag(path):
        return BagSource(Bag(path), topic)
    if path.is_file():
        _refuse_misnamed(path)
    if topic is not None:
        raise ReplayError(f"{path} is not a bag and has no topics; leave --topic out")
    try:
        return MediaSource(path, open_media(str(path)))
    except MediaError as error:
        raise ReplayError(str(error)) from error


def _refuse_misnamed(path: Path) -> None:
    """Tell what a file is whose name hides that it is a recording, or may be."""
    if any(suffix in ARCHIVES for suffix in path.suffixes[-2:]):
        raise ReplayError(f"{path} is an archive; unpack it and give the extracted folder")
    suffix = suffix_by_content(path)
    if suffix:
        raise ReplayError(
            f"{path} is a recording, judging by its first bytes; rename it to *{suffix}"
        )
    if path.suffix in OPENERS:
        raise ReplayError(
            f"{path} is compressed, and its name does not tell what it contains; unpack it, or "
            f"rename a recording to *.mcap{path.suffix}, *.db3{path.suffix} or *.bag{path.suffix}"
        )


def is_bag(path: Path) -> bool:
    """Whether a file, or a folder by the files in it, is a bag, judging by names."""
    holds_bag = path.is_dir() and (
        (path / METADATA).exists() or any(map(_is_part_of_bag, path.iterdir()))
    )
    return holds_bag or is_recording(path)


def _is_part_of_bag(file: Path) -> bool:
    # macOS leaves ._NAME beside NAME.
    return is_recording(file) and not file.name.startswith(".")


class BagSource:
    """The images of one topic of a bag."""

    images = ImageOptions()

    def __init__(self, bag: Bag, topic: str | None) -> None:
        """Find the camera topic.

        Raises:
            ReplayError: there is none, or more than one and none was named.
        """
        self.bag = bag
        self.name = bag.path.resolve().name
        chosen = self._recorded = choose_camera(bag, topic)
        self.topic, self.type_name = chosen.name, image_type(chosen)
        as_recorded = (chosen.encoding, chosen.type_name) == (CDR, self.type_name)
        self.camera = chosen if as_recorded else Topic(self.topic, self.type_name)
        self.expected: int | None = chosen.count
        self.notes, self.losses = bag.notes, bag.losses
        first = list(islice(bag.messages([chosen.name]), LOOKED_AT))
        self._first_ns = first[0].time_ns if first else 0
        times = []
        for message in first:
            with suppress(MessageError):
                image = read_image(message.data, chosen)
                times.append((message.time_ns, stamp_ns(image.header.stamp)))
        self.clock_offset_ns = clock_offset_ns(times)

    def frames(self, span: Span, skip: int = 0) -> Iterator[CameraFrame]:
        """Frames of a part of the bag."""
        reader = ImageReader(self.notes.append)
        for index, message in enumerate(self.messages([self.topic], span)):
            if index >= skip:
                yield _frame(index, message, self._recorded, reader, self.images)

    def messages(self, names: Collection[str], span: Span) -> Iterator[Message]:
        """Messages of these topics in a part of the bag."""
        start_ns = self._first_ns + round(span.start_s * 1e9) if span.start_s else 0
        stop_ns = FOREVER_NS
        if span.duration_s is not None:
            stop_ns = self._first_ns + round((span.start_s + span.duration_s) * 1e9)
        return self.bag.messages(names, start_ns, stop_ns)


class MediaSource:
    """The images of a video file or of a folder, at the times of the video."""

    topic, type_name = VIDEO_TOPIC, COMPRESSED_IMAGE
    camera = Topic(VIDEO_TOPIC, COMPRESSED_IMAGE)
    clock_offset_ns = 0
    images = ImageOptions()

    def __init__(self, path: Path, media: Media) -> None:
        """Take over an opened video or folder.

        Raises:
            ReplayError: it is a live camera, which cannot be replayed.
        """
        if media.live:
            raise ReplayError(
                f"{media.name} is a camera and cannot be replayed; `vlm-perception demo {path}` "
                "records a bag"
            )
        self.name = path.resolve().name
        self.expected = media.count
        self.losses: list[str] = []
        self._media = media
        self.timed = media.timed or media.rate_hz is not None
        """Whether the source itself says when its images were taken."""
        self._rate_hz = media.rate_hz or FOLDER_RATE_HZ
        where = "the file's own rate" if media.rate_hz else "the default"
        even = f"the images are taken at {self._rate_hz:g} Hz, {where}"
        self.notes = media.notes or [even]

    def frames(self, span: Span, skip: int = 0) -> Iterator[CameraFrame]:
        """Frames of a part of the video."""
        index = 0
        for position, picture in enumerate(self._media.pictures()):
            time_s = position / self._rate_hz
            if self._media.timed and picture.time_s is not None:
                time_s = picture.time_s
            elapsed = time_s - span.start_s
            if elapsed < -SAME_TIME_S:
                continue
            if span.duration_s is not None and elapsed >= span.duration_s - SAME_TIME_S:
                return
            if index >= skip:
                yield self._frame(index, time_s, picture)
            index += 1
        self.losses = self._media.losses

    def _frame(self, index: int, time_s: float, picture: Picture) -> CameraFrame:
        stamp_ns = VIDEO_START_NS + round(time_s * 1e9)
        if picture.fault:
            return _without_image(index, stamp_ns, picture.fault, picture.fault_text)
        file = picture.encoded(JPEG_QUALITY)
        message = compressed_image(stamp_ns, VIDEO_FRAME_ID, file)
        try:
            pixels = convert(message, self.images).pixels
        except ImageError as error:
            return _without_image(index, stamp_ns, error.kind, str(error))
        data = serialized(message)
        return CameraFrame(index, stamp_ns, stamp_ns, VIDEO_FRAME_ID, pixels, data)


def _without_image(index: int, stamp_ns: int, fault: str, text: str) -> CameraFrame:
    return CameraFrame(index, stamp_ns, stamp_ns, VIDEO_FRAME_ID, None, b"", fault, text)


def _frame(
    index: int, message: Message, topic: Topic, reader: ImageReader, images: ImageOptions
) -> CameraFrame:
    as_recorded = topic.encoding == CDR and topic.type_name == image_type(topic)
    try:
        read = read_image(message.data, topic)
        stamp = _stamp(read)
        data = message.data if as_recorded else serialized_image(read)
    except MessageError as error:
        return CameraFrame(index, message.time_ns, 0, "", None, b"", "bad_message", str(error))
    frame_id = str(read.header.frame_id)
    try:
        pixels = reader.read(read, images)
    except ImageError as error:
        return CameraFrame(
            index, message.time_ns, stamp, frame_id, None, data, error.kind, str(error)
        )
    return CameraFrame(index, message.time_ns, stamp, frame_id, pixels, data)


def _stamp(image: Any) -> int:
    """The stamp of an image in nanoseconds.

    Raises:
        MessageError: it is later than the results' messages can say.
    """
    stamp = stamp_ns(image.header.stamp)
    if stamp > LATEST_STAMP_NS:
        raise MessageError(f"its stamp of {stamp} ns is not a valid time; the message is damaged")
    return stamp
