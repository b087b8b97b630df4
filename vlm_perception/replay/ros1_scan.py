# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a ROS 1 bag from its beginning, record by record, as far as it goes.

For bags without their index (.bag.active, or cut off), which `rosbag reindex` would mend. Format:
https://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import struct
from bz2 import decompress as bz2_decompress
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.typesys.msg import normalize_msgtype

from vlm_perception.replay.packing import DAMAGE, unlz4
from vlm_perception.replay.storage import (
    ROS1,
    Message,
    StorageError,
    Topic,
    still_written,
    survey,
)

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, CHUNK, CONNECTION = 2, 5, 7
LENGTH = struct.Struct("<I")


class ScannedRos1:
    """A ROS 1 bag without the use of its index."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            StorageError: it is no bag of version 2.0.
        """
        self._path = path
        self._file = path.open("rb")
        if self._file.read(len(MAGIC)) != MAGIC:
            self._file.close()
            raise StorageError(f"{path.name} is no ROS 1 bag of version 2.0")
        self._topics: dict[int, Topic] = {}
        self._lost_bytes = self._damaged = 0

    @cached_property
    def _survey(self) -> tuple[Counter[int], int]:
        return survey(self._records())

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics; the whole file is read for them."""
        counts, _ = self._survey
        return tuple(replace(topic, count=counts[number]) for number, topic in self._topics.items())

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 when there is none."""
        return self._survey[1]

    @property
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""
        return (
            f"{self._path.name}: it has no index that can be used; {self._lost_bytes} bytes at its "
            f"end and {self._damaged} damaged chunk(s) or record(s) were left out "
            f"({still_written(self._path)})"
        )

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Messages of these topics in the order of the file."""
        for connection, time_ns, data in self._records():
            topic = self._topics[connection]
            if topic.name in names and start_ns <= time_ns < stop_ns:
                yield Message(topic.name, time_ns, data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        """Connection, time and data of each message."""
        self._lost_bytes = self._damaged = 0
        self._file.seek(len(MAGIC))
        size = self._path.stat().st_size
        while (position := self._file.tell()) < size:
            record = _record(self._file)
            if record is None:
                self._lost_bytes = size - position
                yield from self._torn_chunk(position)
                return
            header, body = record
            if header.get(b"op") != bytes([CHUNK]):
                yield from self._take(header, body)
                continue
            chunk = _unpack_chunk(header.get(b"compression", b""), body)
            if chunk is None:
                self._damaged += 1
                continue
            records = BytesIO(chunk)
            while (inner := _record(records)) is not None:
                yield from self._take(*inner)

    def _torn_chunk(self, position: int) -> Iterator[tuple[int, int, bytes]]:
        """The whole messages of a chunk that the file breaks off in, where it is not compressed."""
        self._file.seek(position)
        header = _fields(_sized(self._file) or b"")
        if header.get(b"op") != bytes([CHUNK]) or header.get(b"compression") != b"none":
            return
        self._file.seek(LENGTH.size, SEEK_CUR)
        self._lost_bytes = self._path.stat().st_size - self._file.tell()
        while (inner := _record(self._file)) is not None:
            self._lost_bytes = self._path.stat().st_size - self._file.tell()
            yield from self._take(*inner)

    def _take(self, header: dict[bytes, bytes], body: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Connection, time and data of a message; what other records say is remembered."""
        try:
            message = self._parse(header, body)
        except (struct.error, LookupError, ValueError):
            self._damaged += 1
            return
        if message is not None:
            yield message

    def _parse(self, header: dict[bytes, bytes], body: bytes) -> tuple[int, int, bytes] | None:
        operation = header[b"op"][0]
        if operation == CONNECTION:
            fields = _fields(body)
            self._topics[LENGTH.unpack(header[b"conn"])[0]] = Topic(
                header[b"topic"].decode(),
                normalize_msgtype(fields[b"type"].decode()),
                ROS1,
                fields[b"message_definition"].decode("utf-8", "replace"),
            )
        elif operation == MESSAGE:
            seconds, nanoseconds = struct.unpack("<II", header[b"time"])
            connection = LENGTH.unpack(header[b"conn"])[0]
            if connection in self._topics:
                return connection, seconds * 1_000_000_000 + nanoseconds, body
            self._damaged += 1
        return None


def _record(file: BinaryIO) -> tuple[dict[bytes, bytes], bytes] | None:
    """Header and body of the next record; None when it is not there as a whole."""
    header = _sized(file)
    body = _sized(file) if header is not None else None
    return None if header is None or body is None else (_fields(header), body)


def _sized(file: BinaryIO) -> bytes | None:
    length = file.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    data = file.read(LENGTH.unpack(length)[0])
    return data if len(data) == LENGTH.unpack(length)[0] else None


def _fields(header: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at + LENGTH.size <= len(header):
        (length,) = LENGTH.unpack_from(header, at)
        name, _, value = header[at + 4 : at + 4 + length].partition(b"=")
        fields[name] = value
        at += 4 + length
    return fields


def _unpack_chunk(compression: bytes, body: bytes) -> bytes | None:
    try:
        if compression == b"bz2":
            return bz2_decompress(body)
        return unlz4(body) if compression == b"lz4" else body
    except (*DAMAGE, OSError, ValueError):
        return None
