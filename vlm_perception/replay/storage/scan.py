# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A file of a recording that is read from its beginning, without the use of an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from vlm_perception.replay.storage.compression import unpacked_if_whole
from vlm_perception.replay.storage.record_walk import Bytes
from vlm_perception.replay.storage.types import Message, Topic

Entry = tuple[int, int, Bytes, int, int]
"""A message: its channel, its time in nanoseconds, and what holds it, from where to where."""


class Scan(ABC):
    """What the scans of all formats share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channels: dict[int, Topic] = {}

    @abstractmethod
    def _entries(self) -> Iterator[Entry]:
        """Every message in the order of the file; determines the loss again."""

    @property
    @abstractmethod
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @cached_property
    def _survey(self) -> tuple[Counter[int], int]:
        counts: Counter[int] = Counter()
        start_ns = 0
        for channel, time_ns, *_ in self._entries():
            counts[channel] += 1
            start_ns = min(start_ns or time_ns, time_ns)
        return counts, start_ns

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics; the whole file is read for them."""
        counts, _ = self._survey
        return tuple(
            replace(topic, count=counts[channel]) for channel, topic in self._channels.items()
        )

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 when there is none."""
        return self._survey[1]

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Messages of these topics in the order of the file."""
        for channel, time_ns, source, start, stop in self._entries():
            name = self._channels[channel].name
            if name in names and start_ns <= time_ns < stop_ns:
                yield Message(name, time_ns, unpacked_if_whole(source[start:stop]))
