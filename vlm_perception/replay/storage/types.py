# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What every file of a recording is: topics and messages, and what of it could not be read."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rosbags.interfaces import Qos

from vlm_perception.common.errors import VlmPerceptionError

ROS1 = "ros1"
CDR = "cdr"
PROTOBUF = "protobuf"
JSON = "json"
WRITTEN_LATELY_S = 10.0


class StorageError(VlmPerceptionError):
    """A file cannot be read at all; the text says why."""


@dataclass(frozen=True)
class Topic:
    """A topic of a recording, and how many of its messages there are."""

    name: str
    type_name: str
    """As in ROS 2, package/msg/Name; in other encodings as in the recording."""
    encoding: str = CDR
    """How messages are serialized: CDR, ROS1, PROTOBUF, JSON or any other that the recording
    gives."""
    definition: str = ""
    """Message definition, where the recording holds one."""
    digest: str = ""
    """RIHS01 hash of the type, where the recording holds one."""
    count: int = 0
    qos: tuple[Qos, ...] = ()
    """Quality of service that its publishers offered, if the recording contains it."""

    @property
    def type(self) -> tuple[str, str, str]:
        """The recording's information on the messages' type: name, definition and hash."""
        return self.type_name, self.definition, self.digest


@dataclass(frozen=True)
class Message:
    """A serialized message and the time at which it was recorded, in nanoseconds."""

    topic: str
    time_ns: int
    data: bytes


class StorageFile(Protocol):
    """One file of a recording, open."""

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics; a file without an index is read to its end for them."""
        ...

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 when there is none."""
        ...

    @property
    def loss(self) -> str:
        """What could not be read, in one sentence; complete when topics or messages were read."""
        ...

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Messages of these topics from one time up to before another."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def still_written(path: Path) -> str:
    """A hint for a file that has no end: whether something may still write to it."""
    if time.time() - path.stat().st_mtime < WRITTEN_LATELY_S:
        return "it changed a moment ago: is it still being recorded?"
    return "the recorder was killed, the disk was full, or a copy was interrupted"
