# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Read the package's messages without caring who decoded them: rclpy or rosbags."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlm_perception.errors import VlmPerceptionError
from vlm_perception.share import share_folder
from vlm_perception.types import Attribute, Reasoning, Region, Scene, Status, Tag

_STAMP = struct.Struct("<iI")
_CDR_HEADER_BYTES = 4


class MessageError(VlmPerceptionError):
    """A message is not what its type says."""

    @classmethod
    def of(cls, type_name: str, error: Exception) -> MessageError:
        """The error for what a reader raised."""
        return cls(f"the message is no {type_name}: {str(error) or type(error).__name__}")


@cache
def message_types() -> Typestore:
    """The definitions of ROS's own messages and, from their installed files, of the package's."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted((share_folder() / "msg").glob("*.msg")):
        text = file.read_text(encoding="utf-8")
        types.register(get_types_from_msg(text, f"vlm_perception/msg/{file.stem}"))
    return types


def definition_types(type_name: str, definition: str) -> Any:
    """The types that a recording's own definition of a type tells of.

    Raises:
        TypesysError: the definition cannot be read.
    """
    rule = "=" * 80 + "\n"
    if not definition.startswith(f"{rule}IDL: "):
        return get_types_from_msg(definition, type_name)
    types: dict[str, Any] = {}
    for part in definition.split(rule)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def read_cdr(data: bytes, type_name: str) -> Any:
    """A message of ROS's or of the package's own types.

    Raises:
        MessageError: it is damaged, or of another version of the type.
    """
    try:
        return message_types().deserialize_cdr(data, type_name)
    # Of a message that is not what its type says, the reader makes nearly anything.
    except Exception as error:
        raise MessageError.of(type_name, error) from error


def stamp_of_serialized(data: bytes) -> int:
    """Stamp in nanoseconds of a serialized message whose first field is a std_msgs/Header.

    Reading eight bytes instead of the message is what makes it cheap to watch large topics.

    Raises:
        struct.error: the message is shorter.
    """
    seconds, nanoseconds = _STAMP.unpack_from(data, _CDR_HEADER_BYTES)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def stamp_ns(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def scene_of(message: Any) -> Scene:
    """Turn a SemanticScene message into a scene.

    Raises:
        MessageError: its status is none of STATUS_*.
    """
    try:
        status = Status(int(message.status))
    except ValueError as error:
        raise MessageError(f"its status {message.status} is none of STATUS_*") from error
    return Scene(
        stamp_ns=stamp_ns(message.header.stamp),
        frame_id=str(message.header.frame_id),
        run_id=str(message.run_id),
        sequence=int(message.sequence),
        bundle_digest=str(message.bundle_digest),
        image_size=(int(message.image_width), int(message.image_height)),
        vocabulary_version=int(message.vocabulary_version),
        instruction_version=int(message.instruction_version),
        tags=tuple(Tag(int(t.label_index), str(t.label), float(t.score)) for t in message.tags),
        regions=tuple(_region(region) for region in message.regions),
        attributes=tuple(_attribute(attribute) for attribute in message.attributes),
        hazards=tuple(str(hazard) for hazard in message.hazards),
        conflicts=tuple(str(conflict) for conflict in message.conflicts),
        caption=str(message.caption),
        keyframe_stamp_ns=stamp_ns(message.keyframe_stamp),
        embedding_age=float(message.embedding_age),
        reasoning_age=float(message.reasoning_age),
        keyframe_age=float(message.keyframe_age),
        latency={str(link.name): float(link.duration) for link in message.latency},
        rung=int(message.rung),
        status=status,
        reason=str(message.reason),
    )


def reasoning_of(message: Any) -> Reasoning:
    """Turn a SceneReasoning message into a reasoning."""
    return Reasoning(
        stamp_ns=stamp_ns(message.header.stamp),
        frame_id=str(message.header.frame_id),
        run_id=str(message.run_id),
        bundle_digest=str(message.bundle_digest),
        keyframe_stamp_ns=stamp_ns(message.keyframe_stamp),
        is_keyframe=bool(message.is_keyframe),
        trigger=str(message.trigger),
        drift=float(message.drift),
        caption=str(message.caption),
        attributes=tuple(_attribute(attribute) for attribute in message.attributes),
        instruction=str(message.instruction),
        instruction_version=int(message.instruction_version),
        vocabulary_version=int(message.vocabulary_version),
        rung=int(message.rung),
        stages={str(stage.name): float(stage.duration) for stage in message.stages},
    )


def _region(message: Any) -> Region:
    roi = message.roi
    return Region(
        int(message.label_index),
        str(message.label),
        float(message.score),
        int(roi.x_offset),
        int(roi.y_offset),
        int(roi.width),
        int(roi.height),
    )


def _attribute(message: Any) -> Attribute:
    return Attribute(
        str(message.name),
        str(message.value),
        tuple(str(choice) for choice in message.choices),
        tuple(float(probability) for probability in message.probabilities),
    )
