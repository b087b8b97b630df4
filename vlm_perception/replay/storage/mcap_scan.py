# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads an mcap file from its beginning, record by record, as far as it goes.

For files without index and for damaged ones. A chunk with a wrong checksum or size is not used, as
it is unknown which of its messages are right. Format: https://mcap.dev/spec

The `mcap` library reads whole files only: for a record that is shorter than its stated length, its
readers return other bytes instead of an error.
"""

from __future__ import annotations

import re
import struct
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rosbags.typesys.msg import normalize_msgtype

from vlm_perception.replay.storage.compression import DAMAGE, unlz4, unpacked_as_far, unzstd
from vlm_perception.replay.storage.record_scan import RecordScan
from vlm_perception.replay.storage.record_walk import (
    BLOCK,
    MOST_BYTES,
    NO_FIELDS,
    Bytes,
    FileBytes,
    Format,
    Record,
    walk,
)
from vlm_perception.replay.storage.scan import Entry
from vlm_perception.replay.storage.types import ROS1, Topic, still_written

MOST_UNREAD_BYTES = 1 << 63
MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x08
STATISTICS, DATA_END = 0x0B, 0x0F
LEAST_BYTES = (8, 20, 14, 16, 22, 40, 6, 64, 36, 48, 46, 8, 20, 17, 4)
"""Of the fields of each kind of record, from 1."""
READ = (SCHEMA, CHANNEL, MESSAGE, CHUNK)
BOUNDS = {
    kind: (least, MOST_BYTES if kind in READ else MOST_UNREAD_BYTES)
    for kind, least in enumerate(LEAST_BYTES, 1)
}
NEVER = (1, 0)
UNPACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, "zstd": unzstd, "lz4": unlz4}
HEAD = struct.Struct("<BQ")
HEAD_BYTES = HEAD.size
MESSAGE_HEAD = struct.Struct("<HIQQ")
MESSAGE_HEAD_BYTES = MESSAGE_HEAD.size
CHUNK_HEAD = struct.Struct("<QQQI")
FOOTER_BODY = struct.Struct("<QQI")
COUNTS = struct.Struct("<QHI4x4xI")
BEGINNING = re.compile(rb"(?=[\x01-\x0f][\s\S]{4}\0{4})")
"""Of a record of less than 4 GiB."""


def _record_at(data: Bytes, at: int) -> Record | None:
    body = at + HEAD_BYTES
    head = data[at:body]
    if len(head) < HEAD_BYTES:
        return None
    kind, length = HEAD.unpack(head)
    least, most = BOUNDS.get(kind, NEVER)
    end = body + length
    if not least <= length <= most:
        return None
    if kind == CHUNK:
        return (kind, body, end, end, NO_FIELDS) if _chunk_bytes(data, body) == length else None
    return (kind, body, end, body, NO_FIELDS) if end <= len(data) else None


def _chunk_bytes(data: Bytes, body: int) -> int:
    """The length of a chunk by the lengths within it."""
    head = data[body : body + 64]
    try:
        _, at = _text(head, CHUNK_HEAD.size)
        return at + 8 + int.from_bytes(head[at : at + 8], "little")
    except struct.error:
        return -1


def _beginnings(block: bytes) -> Iterator[int]:
    return (match.start() for match in BEGINNING.finditer(block))


class ScannedMcap(RecordScan):
    """An mcap file without the use of its index."""

    format = Format(_record_at, _beginnings)
    magic = MAGIC
    chunk = CHUNK
    in_chunks = frozenset((SCHEMA, CHANNEL, MESSAGE))
    ends = frozenset((DATA_END, FOOTER))

    def __init__(self, path: Path) -> None:
        """Open the file, and read its summary where it has one.

        Raises:
            StorageError: it is no mcap file.
        """
        super().__init__(path, f"{path.name} is not an mcap file, or its first bytes are damaged")
        self._schemas: dict[int, tuple[str, str]] = {}
        self._counts = (0, 0, 0, 0)
        """Of messages, schemas, channels and chunks, according to the summary."""
        self._read = 0
        self.indexed = self._read_summary()
        """Whether it has an index of chunks that is whole, according to its checksum."""

    @property
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""
        parts = []
        if self._damage.records:
            parts.append(f"{self._damage.records} damaged chunk(s) or record(s) were left out")
        if not self._ended:
            parts.append(
                "the file is truncated, and only complete messages of its last "
                f"{self._damage.tail_bytes} bytes were used ({still_written(self._path)})"
            )
        missing = self._counts[0] - self._read
        if missing > 0:
            parts.append(f"{missing} of {self._counts[0]} messages are missing")
        return f"{self._path.name}: {', '.join(parts)}" if parts else ""

    def _entries(self) -> Iterator[Entry]:
        self._read = 0
        return super()._entries()

    def _take(self, data: Bytes, record: Record) -> Entry | None:
        kind, body, end, _, _ = record
        try:
            if kind == MESSAGE:
                start = body + MESSAGE_HEAD_BYTES
                channel, _, time_ns, _ = MESSAGE_HEAD.unpack(data[body:start])
                if channel in self._channels:
                    self._read += 1
                    return channel, time_ns, data, start, end
                self._damage.records += 1
            elif kind in (SCHEMA, CHANNEL, STATISTICS):
                self._parse(kind, data[body:end])
        except (struct.error, ValueError):
            self._damage.records += 1
        return None

    def _parse(self, kind: int, body: bytes) -> None:
        if kind == STATISTICS:
            self._counts = COUNTS.unpack_from(body)
        elif kind == SCHEMA:
            name, at = _text(body, 2)
            _, at = _text(body, at)
            self._schemas[int.from_bytes(body[:2], "little")] = name, _text(body, at)[0]
        else:
            number, schema = struct.unpack_from("<HH", body)
            topic, at = _text(body, 4)
            encoding, _ = _text(body, at)
            name, text = self._schemas.get(schema, ("", ""))
            if encoding == ROS1:
                name = normalize_msgtype(name)
            self._channels[number] = Topic(topic, name, encoding, text)

    def _unpack(self, record: Record, body: bytes) -> bytes | None:
        try:
            _, _, size, checksum = CHUNK_HEAD.unpack_from(body)
            compression, at = _text(body, CHUNK_HEAD.size)
            records = UNPACK[compression](body[at + 8 :])
        except (*DAMAGE, struct.error, KeyError, ValueError):
            return None
        whole = len(records) == size and (not checksum or crc32(records) == checksum)
        return records if whole else None

    def _unpack_torn(self, record: Record, body: bytes) -> bytes:
        compression, at = _text(body, CHUNK_HEAD.size)
        return unpacked_as_far(body[at + 8 :]) if compression else body[at + 8 :]

    def _read_summary(self) -> bool:
        """Remember the summary; whether it can be relied upon as an index."""
        stop = len(self._data) - len(MAGIC)
        at = stop - FOOTER_BODY.size - HEAD_BYTES
        footer = _record_at(self._data, at) if at > 0 else None
        if footer is None or footer[0] != FOOTER or footer[2] != stop:
            return False
        start, _, checksum = FOOTER_BODY.unpack(self._data[footer[1] : stop])
        if not len(MAGIC) <= start < at:
            return False
        if checksum and _checksum(self._data, start, stop - 4) != checksum:
            return False
        kinds: Counter[int] = Counter()
        for record in walk(self._data, start, self.format, self._damage):
            kinds[record[0]] += 1
            if record[0] == FOOTER:
                break
            if record[0] == CHUNK_INDEX and _packed_bytes(self._data, record[2]) > MOST_BYTES:
                return False
            self._take(self._data, record)
        found = len(self._schemas), len(self._channels), kinds[CHUNK_INDEX]
        if not kinds[CHUNK_INDEX] or found != self._counts[1:] or self._damage.records:
            return False
        return checksum > 0 or self._index_agrees()


def _checksum(data: FileBytes, start: int, stop: int) -> int:
    value = 0
    for at in range(start, stop, BLOCK):
        value = crc32(data[at : min(at + BLOCK, stop)], value)
    return value


def _packed_bytes(data: Bytes, end: int) -> int:
    """Size of a chunk in the file, by its entry in the index, which ends with this and another."""
    return int.from_bytes(data[end - 16 : end - 8], "little")


def _text(body: bytes, at: int) -> tuple[str, int]:
    """A string with its length before it, and where the next field begins."""
    (length,) = struct.unpack_from("<I", body, at)
    end = at + 4 + length
    if end > len(body):
        raise struct.error("a text is longer than its record")
    return body[at + 4 : end].decode("utf-8", "replace"), end


def has_index(path: Path) -> bool:
    """Whether a file has an index of its chunks that is whole, according to its checksum.

    Raises:
        StorageError: it is no mcap file.
    """
    file = ScannedMcap(path)
    file.close()
    return file.indexed
