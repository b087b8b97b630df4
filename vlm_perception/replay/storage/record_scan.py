# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A file that is made of records, some of which are chunks of others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from vlm_perception.replay.storage.record_walk import Bytes, Damage, FileBytes, Format, Record, walk
from vlm_perception.replay.storage.scan import Entry, Scan
from vlm_perception.replay.storage.types import StorageError

FIRST = 10
"""Messages of which the topics are looked at; ten raw images of 4K are 250 MB."""


class RecordScan(Scan):
    """What the scans of such files share."""

    format: ClassVar[Format]
    magic: ClassVar[bytes]
    """First bytes of the file."""
    chunk: ClassVar[int]
    """The kind of record that holds others."""
    in_chunks: ClassVar[frozenset[int]]
    """Kinds of these others."""
    ends: ClassVar[frozenset[int]] = frozenset()
    """Kinds after which there are no messages."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Open the file.

        Raises:
            StorageError: it does not begin as it should; the text is the refusal.
        """
        super().__init__(path)
        self._damage = Damage()
        self._ended = False
        self._data = FileBytes(path)
        if self._data[0 : len(self.magic)] != self.magic:
            self.close()
            raise StorageError(refusal)

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    @abstractmethod
    def _take(self, data: Bytes, record: Record) -> Entry | None:
        """The message that a record is; the contents of other records are remembered."""

    @abstractmethod
    def _unpack(self, record: Record, body: bytes) -> bytes | None:
        """The records of a chunk; None when it is damaged."""

    @abstractmethod
    def _unpack_torn(self, record: Record, body: bytes) -> bytes:
        """What can be unpacked of a chunk that breaks off."""

    def _index_agrees(self) -> bool:
        """Whether the first messages are of the topics that were read from the index."""
        known = dict(self._channels)
        for _ in islice(self._entries(), FIRST):
            pass
        return known == self._channels

    def _entries(self) -> Iterator[Entry]:
        self._damage, self._ended = Damage(), False
        for record in walk(self._data, len(self.magic), self.format, self._damage):
            if record[0] == self.chunk:
                yield from self._chunk(record)
            elif record[0] in self.ends:
                self._ended = True
                return
            elif (entry := self._take(self._data, record)) is not None:
                yield entry

    def _chunk(self, chunk: Record) -> Iterator[Entry]:
        _, start, end, _, _ = chunk
        body = self._data[start:end]
        torn = end > len(self._data)
        records = self._unpack_torn(chunk, body) if torn else self._unpack(chunk, body)
        if records is None:
            self._damage.records += 1
            return
        within = Damage()
        for record in walk(records, 0, self.format, within):
            if record[0] not in self.in_chunks:
                self._damage.records += 1
            elif (entry := self._take(records, record)) is not None:
                yield entry
        if torn:
            self._damage.tail_bytes = len(body)
        else:
            self._damage.records += within.records + bool(within.tail_bytes)
