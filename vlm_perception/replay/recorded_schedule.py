# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""On which frames a robot worked, read from what it recorded, so that replay can do the same.

Which frame the language path takes, and which reasoning a scene comes in time for, depends on a
robot's load. With that taken from the robot itself, only the results can still differ.
"""

from __future__ import annotations

import hashlib
import math
import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.definitions import reader
from vlm_perception.messages.rosbags import stamp_of_serialized
from vlm_perception.messages.tables import EMBEDDING, REASONING, SCENE
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.storage.types import Topic
from vlm_perception.types import UNKNOWN_AGE, Reasoning, Scene, Trigger

AGE_PRECISION_NS = 1_000_000
"""Ages in a scene are float32 seconds."""
LOOKED_AT = 8
"""Reasonings among which that of a scene is looked for."""
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
REASONER_STATUS, CAPTION_LIMIT = "language_reasoner: pipeline", "max_caption_s"
"""The status of the language node, and its key for the longest time for a caption."""


@dataclass(frozen=True)
class ScheduledTick:
    """A frame that the language path took."""

    level: int
    """Its degradation level."""
    doubted: bool
    """Whether a conflict of the two paths made it a key frame."""


@dataclass(frozen=True)
class Schedule:
    """What a robot worked on; frames are identified by their stamps in nanoseconds."""

    encoded: frozenset[int]
    ticks: dict[int, ScheduledTick]
    known: dict[int, int]
    """For a scene's frame, the frame of the newest reasoning that had come by then; 0: none."""
    losses: tuple[str, ...] = ()
    """What of the robot's bag could not be read."""
    max_caption_s: float | None = None
    """The longest time for a caption in seconds; None: the bag does not tell."""

    @property
    def digest(self) -> str:
        """Hash of it, in hexadecimal digits."""
        content = repr((sorted(self.encoded), sorted(self.ticks.items()), sorted(self.known)))
        return hashlib.sha256(content.encode()).hexdigest()


def read_schedule(path: Path) -> Schedule:
    """Read a robot's schedule from a bag with its `embedding`, `reasoning` and `scene`.

    Where the bag has `/diagnostics`, too, they tell the robot's longest time for a caption.

    Raises:
        ReplayError: the bag cannot be read, or lacks one of the topics.
        MessageError: its messages are of another version than can be read.
    """
    bag = Bag(path)
    topics = _topics(bag)
    readers = {name: reader(*each.type) for name, each in topics.items()}
    encoded: set[int] = set()
    reasonings: dict[int, Reasoning] = {}
    scenes: dict[int, Scene] = {}
    damaged, max_caption_s = 0, None
    for message in bag.messages(topics):
        kind, read = topics[message.topic].type_name, readers[message.topic]
        try:
            if kind == EMBEDDING.type_name:
                encoded.add(stamp_of_serialized(message.data))
            elif kind == REASONING.type_name:
                reasoning = REASONING.read(read(message.data))
                reasonings.setdefault(reasoning.stamp_ns, reasoning)
            elif kind == DIAGNOSTICS:
                max_caption_s = _caption_limit(read(message.data)) or max_caption_s
            else:
                scene = SCENE.read(read(message.data))
                scenes.setdefault(scene.stamp_ns, scene)
        except (MessageError, struct.error):
            damaged += 1
    if damaged:
        bag.losses.append(f"{damaged} messages of {path} are damaged or of another version")
    taken = sorted(reasonings)
    return Schedule(
        frozenset(encoded),
        {
            stamp: ScheduledTick(each.rung, each.trigger == Trigger.CONFLICT)
            for stamp, each in reasonings.items()
        },
        {stamp: _newest_known(scene, reasonings, taken) for stamp, scene in scenes.items()},
        tuple(bag.losses),
        max_caption_s,
    )


def _topics(bag: Bag) -> dict[str, Topic]:
    """The topics that a schedule is read from, by their names."""
    wanted = [table.type_name for table in (EMBEDDING, REASONING, SCENE)]
    kinds = [each.type_name for each in bag.topics if each.count]
    for kind in wanted:
        count = kinds.count(kind)
        if count != 1:
            raise ReplayError(
                f"{bag.path} has {count} topics of {kind}; a schedule needs one, that of a single "
                "camera's nodes"
            )
    wanted.append(DIAGNOSTICS)
    return {each.name: each for each in bag.topics if each.count and each.type_name in wanted}


def _caption_limit(diagnostics: Any) -> float | None:
    """What the language node tells of its longest time for a caption; None: nothing."""
    for status in diagnostics.status:
        if status.name.endswith(REASONER_STATUS):
            for each in status.values:
                if each.key == CAPTION_LIMIT and each.value:
                    seconds = float(each.value)
                    return seconds if math.isfinite(seconds) else None
    return None


def _newest_known(scene: Scene, reasonings: dict[int, Reasoning], taken: list[int]) -> int:
    """The frame of a scene's reasoning, by the two ages that were taken at one time.

    A clock that is late makes the embedding's age 0 and the difference too small: of the
    reasonings that are old enough the newest is meant.
    """
    if UNKNOWN_AGE in (scene.reasoning_age, scene.embedding_age):
        return 0
    older_ns = round((scene.reasoning_age - scene.embedding_age) * 1e9)
    place = bisect_right(taken, scene.stamp_ns - older_ns + AGE_PRECISION_NS)
    for stamp in reversed(taken[max(0, place - LOOKED_AT) : place]):
        if reasonings[stamp].keyframe_stamp_ns == scene.keyframe_stamp_ns:
            return stamp
    return 0
