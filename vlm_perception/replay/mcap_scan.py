# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads an mcap file from its beginning, record by record, as far as it goes.

For files without their end, where index and summary are missing, and for those with a damaged
chunk, which is left out. Format: https://mcap.dev/spec
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rosbags.typesys.msg import normalize_msgtype

from vlm_perception.replay.packing import DAMAGE, unlz4, unpacked_as_far, unpacked_if_whole, unzstd
from vlm_perception.replay.storage import (
    ROS1,
    Message,
    StorageError,
    Topic,
    still_written,
    survey,
)

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
RECORD = struct.Struct("<BQ")
MESSAGE_HEADER = struct.Struct("<HIQQ")
CHUNK_HEADER = struct.Struct("<QQQI")


@dataclass(frozen=True)
class _Schema:
    name: str
    text: str


class ScannedMcap:
    """An mcap file without the use of its index."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            StorageError: it is no mcap file.
        """
        self._path = path
        self._file = path.open("rb")
        if self._file.read(len(MAGIC)) != MAGIC:
            self._file.close()
            raise StorageError(f"{path.name} is no mcap file, or its first bytes are damaged")
        self._schemas: dict[int, _Schema] = {}
        self._channels: dict[int, Topic] = {}
        self._damaged = 0
        self._ended = False
        self._lost_bytes = 0

    @cached_property
    def _survey(self) -> tuple[Counter[int], int]:
        return survey(self._records())

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
        for channel, time_ns, data in self._records():
            topic = self._channels[channel]
            if topic.name in names and start_ns <= time_ns < stop_ns:
                yield Message(topic.name, time_ns, unpacked_if_whole(data))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""
        parts = []
        if self._damaged:
            parts.append(f"{self._damaged} damaged chunk(s) or record(s) were left out")
        if not self._ended:
            parts.append(
                f"the file has no end, and of its last {self._lost_bytes} bytes only whole "
                f"messages were used ({still_written(self._path)})"
            )
        return f"{self._path.name}: {', '.join(parts)}" if parts else ""

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        """Channel, time and data of each message."""
        self._damaged, self._ended, self._lost_bytes = 0, False, 0
        self._file.seek(len(MAGIC))
        size = self._path.stat().st_size
        while True:
            position = self._file.tell()
            head = self._file.read(RECORD.size)
            opcode, length = RECORD.unpack(head) if len(head) == RECORD.size else (0, size)
            if position + RECORD.size + length > size:
                self._lost_bytes = size - position
                if opcode == CHUNK:
                    yield from self._inside(_torn_chunk(self._file.read()))
                return
            if opcode == DATA_END:
                self._ended = True
                return
            if opcode in (SCHEMA, CHANNEL, MESSAGE):
                taken = self._take(opcode, self._file.read(length))
                if taken is not None:
                    yield taken
            elif opcode == CHUNK:
                chunk = _unpack_chunk(self._file.read(length))
                if chunk is None:
                    self._damaged += 1
                else:
                    yield from self._inside(chunk)
            else:
                self._file.seek(length, 1)

    def _inside(self, chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Messages of the records that are whole."""
        at = 0
        while at + RECORD.size <= len(chunk):
            opcode, length = RECORD.unpack_from(chunk, at)
            at += RECORD.size + length
            if at > len(chunk):
                return
            taken = self._take(opcode, chunk[at - length : at])
            if taken is not None:
                yield taken

    def _take(self, opcode: int, body: bytes) -> tuple[int, int, bytes] | None:
        """Channel, time and data of a message; what other records say is remembered."""
        try:
            return self._parse(opcode, body)
        except (struct.error, ValueError):
            self._damaged += 1
            return None

    def _parse(self, opcode: int, body: bytes) -> tuple[int, int, bytes] | None:
        if opcode == MESSAGE:
            channel, _, time_ns, _ = MESSAGE_HEADER.unpack_from(body)
            if channel in self._channels:
                return channel, time_ns, body[MESSAGE_HEADER.size :]
            self._damaged += 1
        elif opcode == SCHEMA:
            (number,) = struct.unpack_from("<H", body)
            name, at = _text(body, 2)
            _, at = _text(body, at)
            self._schemas[number] = _Schema(name, _text(body, at)[0])
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            name, at = _text(body, 4)
            known = self._schemas.get(schema, _Schema("", ""))
            encoding = _text(body, at)[0]
            kind = normalize_msgtype(known.name) if encoding == ROS1 else known.name
            self._channels.setdefault(number, Topic(name, kind, encoding, known.text))
        return None


def _text(body: bytes, at: int) -> tuple[str, int]:
    """A string with its length before it, and where the next field begins."""
    (length,) = struct.unpack_from("<I", body, at)
    end = at + 4 + length
    return body[at + 4 : end].decode("utf-8", "replace"), end


def _torn_chunk(body: bytes) -> bytes:
    """What can be unpacked of a chunk that breaks off."""
    try:
        compression, at = _text(body, CHUNK_HEADER.size)
    except struct.error:
        return b""
    packed = body[at + 8 :]
    return unpacked_as_far(packed) if compression else packed


def _unpack_chunk(body: bytes) -> bytes | None:
    """The records of a chunk; None when it is damaged."""
    try:
        _, _, size, checksum = CHUNK_HEADER.unpack_from(body)
        compression, at = _text(body, CHUNK_HEADER.size)
        (length,) = struct.unpack_from("<Q", body, at)
        packed = body[at + 8 : at + 8 + length]
        if compression == "zstd":
            packed = unzstd(packed)
        elif compression == "lz4":
            packed = unlz4(packed)
    except (*DAMAGE, struct.error, ValueError):
        return None
    whole = len(packed) == size and (not checksum or crc32(packed) == checksum)
    return packed if whole else None
