# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which topic of a bag is the camera that is replayed, and what is reported about the others."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vlm_perception.media.image_format import CODECS, NO_COLOURS, Format, codec_of
from vlm_perception.media.image_message import encoding_of
from vlm_perception.messages.codec import MessageError
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.image_messages import (
    FFMPEG_PACKET,
    IMAGE,
    SERIALIZATIONS,
    VIDEO_TYPES,
    image_type,
    read_image,
    read_message,
)
from vlm_perception.replay.storage.types import Topic

LISTED_AT_MOST = 20
LOOKED_AT = 5
"""Messages of a topic, whose first intact one shows what the topic contains."""
RECORD_COLOURS = "record the topic of a colour or grayscale camera as well"
GREY = ("mono8", "mono16", "8UC1")


@dataclass(frozen=True)
class Shown:
    """What the images of a topic show."""

    topic: Topic
    colours: bool = True
    wrong: str = ""
    """Why it is not replayed; empty: it is a camera."""
    remedy: str = ""

    @property
    def why(self) -> str:
        """What it shows, where that is no colours."""
        return self.wrong or ("" if self.colours else "grey")


def choose_camera(bag: Bag, name: str | None) -> Topic:
    """The topic that is replayed.

    Of cameras that show colours and grey ones, a single one of the former is taken; what is left
    out is noted in the bag.

    Args:
        bag: the recording.
        name: the topic that was asked for; None: the only camera.

    Raises:
        ReplayError: there is no such topic, no camera, or more than one.
    """
    return _named(bag, name) if name else _only_camera(bag)


def look(bag: Bag, topic: Topic) -> Shown:
    """Find out what a topic of images or video shows."""
    if topic.type_name in VIDEO_TYPES:
        return _video(topic, _codec(bag, topic))
    if topic.encoding not in SERIALIZATIONS:
        return Shown(topic, wrong=f"serialized as {topic.encoding!r}, which is not supported")
    for message in islice(bag.messages([topic.name]), LOOKED_AT):
        with suppress(MessageError):
            return _shown(topic, read_image(message.data, topic))
    # Broken images say nothing about those that follow.
    return Shown(topic)


def _shown(topic: Topic, image: Any) -> Shown:
    if image_type(topic) == IMAGE:
        encoding = str(image.encoding)
        if NO_COLOURS.fullmatch(encoding):
            return Shown(
                topic, wrong=f"{encoding}, which is not a colour format", remedy=RECORD_COLOURS
            )
        if encoding_of(encoding) is None:
            return Shown(
                topic,
                wrong=f"the encoding {encoding!r}, which is not supported",
                remedy="convert it to rgb8, as image_proc does, and record that",
            )
        return Shown(topic, colours=encoding not in GREY)
    declared = Format.parse(str(image.format))
    if declared.shows_depth:
        wrong = f"{declared.text.strip()}, which is not a colour format"
        return Shown(topic, wrong=wrong, remedy=RECORD_COLOURS)
    codec = codec_of(declared.text, bytes(image.data[:4]))
    if codec:
        return _video(topic, codec)
    return Shown(topic, colours=declared.encoding not in GREY)


def _codec(bag: Bag, topic: Topic) -> str:
    """The first packet's own type; empty if it cannot be read."""
    if topic.type_name.startswith("theora"):
        return CODECS["theora"]
    for message in islice(bag.messages([topic.name]), LOOKED_AT):
        with suppress(MessageError):
            packet = read_message(message.data, topic)
            return codec_of(str(getattr(packet, "format", "") or getattr(packet, "encoding", "")))
    return ""


def _video(topic: Topic, codec: str) -> Shown:
    wrong = f"{codec} video, whose packets are not images".lstrip()
    if topic.type_name == FFMPEG_PACKET:
        remedy = (
            f"`ros2 run ffmpeg_image_transport_tools bag_to_file -i BAG -t {topic.name} -r RATE -o "
            "video.mp4` makes a replayable file from them"
        )
    else:
        remedy = (
            "write their `data` to a file, one after the other: `ffmpeg -i FILE -c copy video.mp4` "
            "makes a replayable file from it"
        )
    return Shown(topic, wrong=wrong, remedy=remedy)


def _named(bag: Bag, name: str) -> Topic:
    topic = bag.topic(name)
    if topic is None:
        raise ReplayError(f"{bag.path} has no topic {name}; it has\n{_listing(bag, bag.topics)}")
    if not _is_visual(topic):
        raise ReplayError(
            f"{topic.name} contains {topic.type_name} and not images; choose a camera topic"
        )
    if not topic.count:
        raise ReplayError(
            f"{topic.name} of {bag.path} contains no messages; choose another with --topic"
        )
    shown = look(bag, topic)
    if shown.wrong:
        raise ReplayError(f"{topic.name} cannot be replayed: {_reason(shown)}")
    return topic


def _only_camera(bag: Bag) -> Topic:
    images = [look(bag, each) for each in bag.topics if each.count and _is_visual(each)]
    cameras = [each for each in images if not each.wrong]
    coloured = [each for each in cameras if each.colours]
    candidates = [each.topic for each in coloured or cameras]
    # The same camera raw and compressed: raw is what the nodes read by default.
    of_one = {_camera(each) for each in candidates}
    if len(of_one) > 1:
        raise ReplayError(
            f"{bag.path} has {len(of_one)} cameras; choose one with --topic:\n"
            f"{_listing(bag, candidates)}"
        )
    if not candidates:
        raise ReplayError(_why_none(bag, images))
    chosen = max(candidates, key=lambda each: (each.count, image_type(each) == IMAGE))
    others = [each for each in images if _camera(each.topic) != _camera(chosen)]
    if others:
        listed = ", ".join(f"{each.topic.name} ({each.why})" for each in others)
        bag.notes.append(f"{chosen.name} is replayed; other image topics are left out: {listed}")
    return chosen


def _why_none(bag: Bag, images: list[Shown]) -> str:
    lost = f" ({'; '.join(bag.losses)})" if bag.losses else ""
    if images:
        lines = "\n".join(f"  {each.topic.name}: {_reason(each)}" for each in images)
        return f"{bag.path} contains no camera images that can be replayed{lost}:\n{lines}"
    return (
        f"{bag.path} contains no images of a supported type (Image or CompressedImage of "
        f"sensor_msgs, RawImage or CompressedImage of Foxglove){lost}; its topics "
        f"are\n{_listing(bag, bag.topics)}"
    )


def _reason(shown: Shown) -> str:
    return f"{shown.wrong}; {shown.remedy}" if shown.remedy else shown.wrong


def _is_visual(topic: Topic) -> bool:
    return bool(image_type(topic)) or topic.type_name in VIDEO_TYPES


def _camera(topic: Topic) -> str:
    """The name that the topics of one camera have in common."""
    return topic.name.removesuffix("/compressed")


def _listing(bag: Bag, topics: Iterable[Topic]) -> str:
    """Topics with counts and rates, a line each; a rate is that over the whole bag's messages."""
    every = list(topics)
    lines = []
    for topic in every[:LISTED_AT_MOST]:
        count = f"{topic.count} messages{_rate(bag, topic)}"
        lines.append(f"  {topic.name}  {topic.type_name}  {count}")
    if len(every) > LISTED_AT_MOST:
        lines.append(f"  and {len(every) - LISTED_AT_MOST} more")
    return "\n".join(lines) or "  none"


def _rate(bag: Bag, topic: Topic) -> str:
    if not _is_visual(topic) or topic.count < 2:
        return ""
    first = last = None
    for message in bag.messages([topic.name]):
        first = message.time_ns if first is None else first
        last = message.time_ns
    if first is None or last is None or last <= first:
        return ""
    return f"  {(topic.count - 1) / ((last - first) / 1e9):.1f} Hz"
