# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The canonical scene log: JSON lines, one form for each fact, so that equal runs are equal bytes.

The first line gives the origin of the log, the last one marks it as complete. In between are
frames, reasonings, and what was wrong with the recording, in the order of virtual time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_perception.replay.pipeline import Tick
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import CameraFrame
from vlm_perception.types import Attribute, Region, Scene, Status, Tag

FORMAT = "vlm_perception.scenes"
VERSION = 1
DECIMALS = 6
LONGEST_LINE = 1 << 22

Record = dict[str, Any]


def line(record: Mapping[str, Any]) -> str:
    """A record in its one form."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def frame_record(frame: CameraFrame, scene: Scene) -> Record:
    """A frame and its scene."""
    return {"frame": frame.index, "time": frame.time_ns, **scene_record(scene)}


def scene_record(scene: Scene) -> Record:
    """A scene as in a log; run_id and sequence would add nothing to the lines."""
    return {
        "stamp": scene.stamp_ns,
        "size": list(scene.image_size),
        "status": scene.status.name,
        "reason": scene.reason,
        "tags": {tag.label: number(tag.score) for tag in scene.tags},
        "regions": [
            [region.label, number(region.score), region.x, region.y, region.width, region.height]
            for region in scene.regions
        ],
        "attributes": _answers(scene.attributes),
        "caption": scene.caption,
        "hazards": list(scene.hazards),
        "conflicts": list(scene.conflicts),
        "keyframe": scene.keyframe_stamp_ns,
        "ages": [
            number(age) for age in (scene.embedding_age, scene.reasoning_age, scene.keyframe_age)
        ],
        "latency": {name: number(seconds) for name, seconds in scene.latency.items()},
        "rung": scene.rung,
    }


def reasoning_record(tick: Tick) -> Record:
    """A reasoning; what it repeats of its key frame is left out."""
    reasoning = tick.reasoning
    record: Record = {
        "reasoning": tick.sequence,
        "stamp": reasoning.stamp_ns,
        "trigger": str(reasoning.trigger),
        "drift": number(reasoning.drift),
        "rung": reasoning.rung,
        "seconds": number(tick.seconds),
    }
    if reasoning.is_keyframe:
        record["stages"] = {name: number(each) for name, each in reasoning.stages.items()}
        record["caption"] = reasoning.caption
        record["attributes"] = {each.name: probabilities(each) for each in reasoning.attributes}
    return record


def probabilities(attribute: Attribute) -> Record:
    """Of each choice; of an answer whose model does not say, the value alone with null."""
    if not attribute.probabilities:
        return {attribute.value: None}
    pairs = zip(attribute.choices, attribute.probabilities, strict=True)
    return {choice: number(probability) for choice, probability in pairs}


def scene_of_record(record: Record, labels: Sequence[str]) -> Scene:
    """The scene of a frame's record.

    Args:
        record: what `scene_record` made.
        labels: the vocabulary, for the labels' places in it.
    """
    place = {label: index for index, label in enumerate(labels)}
    return Scene(
        stamp_ns=record["stamp"],
        frame_id="",
        run_id="",
        sequence=record["frame"],
        bundle_digest="",
        image_size=(record["size"][0], record["size"][1]),
        vocabulary_version=1,
        instruction_version=0,
        tags=tuple(
            Tag(place.get(label, 0), label, score) for label, score in record["tags"].items()
        ),
        regions=tuple(
            Region(place.get(label, 0), label, *rest) for label, *rest in record["regions"]
        ),
        attributes=tuple(
            Attribute(name, value, (value,), () if probability is None else (probability,))
            for name, (value, probability) in record["attributes"].items()
        ),
        hazards=tuple(record["hazards"]),
        conflicts=tuple(record["conflicts"]),
        caption=record["caption"],
        keyframe_stamp_ns=record["keyframe"],
        embedding_age=record["ages"][0],
        reasoning_age=record["ages"][1],
        keyframe_age=record["ages"][2],
        latency=record["latency"],
        rung=record["rung"],
        status=Status[record["status"]],
        reason=record["reason"],
    )


def fault_record(frame: CameraFrame, kind: str, text: str) -> Record:
    """A frame that could not be used."""
    return {
        "fault": kind,
        "frame": frame.index,
        "time": frame.time_ns,
        "stamp": frame.stamp_ns,
        "text": text,
    }


def faults_in(file: Path) -> dict[str, tuple[int, str]]:
    """How often each kind of fault is in a log, and the message of the first one.

    Raises:
        ReplayError: as for `read_log`.
    """
    faults: dict[str, tuple[int, str]] = {}
    for record in read_log(file):
        if "fault" in record:
            count, text = faults.get(record["fault"], (0, record["text"]))
            faults[record["fault"]] = (count + 1, text)
    return faults


def number(value: float) -> float:
    """A number as written in a log."""
    return round(float(value), DECIMALS) + 0.0


def _answers(attributes: tuple[Attribute, ...]) -> Record:
    return {
        each.name: [each.value, None if each.probability is None else number(each.probability)]
        for each in attributes
    }


def read_log(file: Path) -> Iterator[Record]:
    """The lines of a log; what follows a torn line of an interrupted run is left out.

    Raises:
        ReplayError: the file is no scene log.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            head = _parsed(stream.readline(LONGEST_LINE))
            if head.get("log") != FORMAT or head.get("version") != VERSION:
                raise ReplayError(
                    f"{file} is not a scene log of version {VERSION}; `vlm-perception replay` "
                    "writes one"
                )
            yield head
            for text in iter(lambda: stream.readline(LONGEST_LINE), ""):
                record = _parsed(text)
                if not record:
                    return
                yield record
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(f"{file} cannot be read: {error}") from error


def _parsed(text: str) -> Record:
    try:
        # No NaN and the like: they are never written.
        record = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def sha256(file: Path) -> str:
    """Hash of a log's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
