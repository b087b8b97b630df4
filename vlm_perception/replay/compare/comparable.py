# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The results for a recording, from a scene log or from a bag that a robot recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.definitions import reader
from vlm_perception.messages.tables import REASONING, SCENE
from vlm_perception.replay.recordings.bag import METADATA, Bag
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.open_file import is_recording
from vlm_perception.replay.report.scene_log import Record, read_log, scene_record

CONTEXT = ("bundle", "digest", "engine", "source", "topic", "start", "duration", "speed")


@dataclass
class Outputs:
    """Frames by their stamps, and key frames."""

    name: str
    context: dict[str, Any] = field(default_factory=dict)
    frames: dict[int, Record] = field(default_factory=dict)
    """By stamp; of several frames of one stamp, as heartbeats are, the first."""
    keyframes: list[tuple[int, str]] = field(default_factory=list)
    """Stamp and trigger."""
    whole: bool = True


def read_outputs(path: Path) -> Outputs:
    """Read a scene log, or the topics `scene` and `reasoning` of a bag.

    Raises:
        ReplayError: it is neither, or holds no scene.
        MessageError: its messages are of another version than can be read.
    """
    if path.is_dir() and (path / "scene.jsonl").exists():
        path = path / "scene.jsonl"
    bag = is_recording(path) or (path.is_dir() and (path / METADATA).exists())
    outputs = _from_bag(path) if bag else _from_log(path)
    if not outputs.frames:
        raise ReplayError(f"{path} contains no scene")
    return outputs


def _from_log(path: Path) -> Outputs:
    records = read_log(path)
    head = next(records)
    outputs = Outputs(str(path), {name: head.get(name) for name in CONTEXT}, whole=False)
    for record in records:
        if "tags" in record:
            outputs.frames.setdefault(record["stamp"], record)
        elif "reasoning" in record and "attributes" in record:
            outputs.keyframes.append((record["stamp"], record["trigger"]))
        elif "end" in record:
            outputs.whole = True
    return outputs


def _from_bag(path: Path) -> Outputs:
    bag = Bag(path)
    kinds = (SCENE.type_name, REASONING.type_name)
    topics = {each.name: each for each in bag.topics if each.type_name in kinds and each.count}
    readers = {name: reader(*each.type) for name, each in topics.items()}
    outputs = Outputs(str(path))
    for message in bag.messages(topics):
        try:
            _take(outputs, topics[message.topic].type_name, readers[message.topic](message.data))
        except MessageError as error:
            bag.losses.append(str(error))
    outputs.whole = not bag.losses
    return outputs


def _take(outputs: Outputs, kind: str, read: Any) -> None:
    if kind == REASONING.type_name:
        reasoning = REASONING.read(read)
        if reasoning.is_keyframe:
            outputs.keyframes.append((reasoning.stamp_ns, reasoning.trigger))
        return
    scene = SCENE.read(read)
    if scene.bundle_digest:
        outputs.context.setdefault("digest", scene.bundle_digest)
        outputs.frames.setdefault(scene.stamp_ns, scene_record(scene))
