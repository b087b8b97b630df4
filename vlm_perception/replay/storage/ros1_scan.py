# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a ROS 1 bag from its beginning, record by record, as far as it goes.

For damaged bags, and for those without their index (.bag.active, or cut off), which `rosbag
reindex` of ROS 1 would mend. Format: https://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import re
import struct
from bz2 import decompress as bz2_decompress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from rosbags.typesys.msg import normalize_msgtype

from vlm_perception.replay.storage.compression import DAMAGE, unlz4, unpacked_as_far
from vlm_perception.replay.storage.record_scan import RecordScan
from vlm_perception.replay.storage.record_walk import (
    MOST_BYTES,
    Bytes,
    Damage,
    Format,
    Record,
    walk,
)
from vlm_perception.replay.storage.scan import Entry
from vlm_perception.replay.storage.types import ROS1, Topic, still_written

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG, CHUNK_INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
OPERATIONS = range(2, 8)
LENGTH = struct.Struct("<I")
TIME = struct.Struct("<II")
MOST_HEADER_BYTES = 1 << 16
KIND = re.compile(rb"\x04\0\0\0op=[\x02-\x07]")
"""The field of a header that gives the kind of a record."""
BEFORE_KIND = (0, 13, 17, 19, 20, 30, 32, 33)
"""Bytes of the fields that may precede it: conn, time, both; compression, size, both."""
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"none": bytes,
    b"bz2": bz2_decompress,
    b"lz4": unlz4,
}


def _record_at(data: Bytes, at: int) -> Record | None:
    length = _number(data[at : at + LENGTH.size])
    body = at + LENGTH.size + length + LENGTH.size
    if length > MOST_HEADER_BYTES or body > len(data):
        return None
    fields = _fields(data[at + LENGTH.size : body - LENGTH.size])
    kind = fields.get(b"op", b"")
    if len(kind) != 1 or kind[0] not in OPERATIONS:
        return None
    length = _number(data[body - LENGTH.size : body])
    end, unpacked = body + length, fields.get(b"compression") == b"none"
    if kind[0] != CHUNK:
        return (kind[0], body, end, body, fields) if end <= len(data) else None
    if length > MOST_BYTES or (unpacked and fields.get(b"size") != LENGTH.pack(length)):
        return None
    return CHUNK, body, end, end, fields


def _fields(header: bytes) -> dict[bytes, bytes]:
    """Names and values; none where the lengths of the fields are not that of the header."""
    fields, at = {}, 0
    while at + LENGTH.size <= len(header):
        length = _number(header[at : at + LENGTH.size])
        at += LENGTH.size + length
        name, _, value = header[at - length : at].partition(b"=")
        fields[name] = value
    return fields if at == len(header) else {}


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _beginnings(block: bytes) -> Iterator[int]:
    for match in KIND.finditer(block):
        places = (match.start() - LENGTH.size - before for before in BEFORE_KIND)
        yield from (place for place in places if place >= 0)


class ScannedRos1(RecordScan):
    """A ROS 1 bag without the use of its index."""

    format = Format(_record_at, _beginnings)
    magic = MAGIC
    chunk = CHUNK
    in_chunks = frozenset((CONNECTION, MESSAGE))

    def __init__(self, path: Path) -> None:
        """Open the file, and read the topics from its index where it has one.

        Raises:
            StorageError: it is no bag of version 2.0.
        """
        super().__init__(path, f"{path.name} is not a ROS 1 bag of version 2.0")
        bag = _record_at(self._data, len(MAGIC))
        index = _number(bag[-1].get(b"index_pos", b"")) if bag else 0
        if index >= len(MAGIC):
            for record in walk(self._data, index, self.format, self._damage):
                if record[0] == CONNECTION:
                    self._take(self._data, record)

    @property
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""
        return (
            f"{self._path.name}: it has no usable index; {self._damage.tail_bytes} bytes at its "
            f"end and {self._damage.records} damaged chunk(s) or record(s) were left out "
            f"({still_written(self._path)})"
        )

    def indexed(self) -> bool:
        """Whether head, chunks and index count the same chunks and messages.

        Raises:
            KeyError: a field is missing, as a name is damaged.
            struct.error: a record is damaged.
        """
        counts: Counter[int] = Counter()
        chunks, damage = 0, Damage()
        for kind, body, end, _, fields in walk(self._data, len(MAGIC), self.format, damage):
            if kind == BAG:
                chunks -= _number(fields[b"chunk_count"])
            elif kind == CHUNK:
                chunks += 1
            elif kind == CHUNK_INDEX:
                counts[_number(fields[b"conn"])] += _number(fields[b"count"])
            elif kind == CHUNK_INFO:
                pairs = struct.iter_unpack("<II", self._data[body:end])
                for connection, count in islice(pairs, _number(fields[b"count"])):
                    counts[connection] -= count
        fits = not chunks and bool(counts) and not any(counts.values()) and damage == Damage()
        return fits and self._index_agrees()

    def _take(self, data: Bytes, record: Record) -> Entry | None:
        kind, body, end, _, header = record
        try:
            if kind == CONNECTION:
                topic = _topic(header, _fields(data[body:end]))
                (connection,) = LENGTH.unpack(header[b"conn"])
                # What a chunk contains besides its messages takes precedence over the index.
                if data is not self._data or connection not in self._channels:
                    self._channels[connection] = topic
            elif kind == MESSAGE:
                seconds, nanoseconds = TIME.unpack(header[b"time"])
                (connection,) = LENGTH.unpack(header[b"conn"])
                if connection in self._channels:
                    return connection, seconds * 1_000_000_000 + nanoseconds, data, body, end
                self._damage.records += 1
        except (struct.error, LookupError, ValueError):
            self._damage.records += 1
        return None

    def _unpack(self, record: Record, body: bytes) -> bytes | None:
        try:
            return UNPACK[record[-1].get(b"compression", b"")](body)
        except (*DAMAGE, KeyError, OSError, ValueError):
            return None

    def _unpack_torn(self, record: Record, body: bytes) -> bytes:
        return body if record[-1].get(b"compression") == b"none" else unpacked_as_far(body)


def _topic(header: Mapping[bytes, bytes], connection: Mapping[bytes, bytes]) -> Topic:
    return Topic(
        header[b"topic"].decode(),
        normalize_msgtype(connection[b"type"].decode()),
        ROS1,
        connection[b"message_definition"].decode("utf-8", "replace"),
    )


def has_index(path: Path) -> bool:
    """Whether a bag has an index that is whole: chunks and their list count the same messages.

    Raises:
        Exception: of several kinds, where it is damaged.
    """
    bag = ScannedRos1(path)
    try:
        return bag.indexed()
    finally:
        bag.close()
