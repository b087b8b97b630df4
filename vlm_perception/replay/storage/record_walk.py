# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Goes from record to record of a file or a chunk, and finds the way on after damage.

Lengths lead from one record to the next, so that a damaged one leads astray. Where no record can
begin, the next place is looked for at which one does that another one follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FIRST_BLOCK, BLOCK = 1 << 12, 1 << 20
"""Bytes that are searched at once: little at first, as damage is mostly small."""
MARGIN = 1 << 10
"""Bytes by which blocks that are searched overlap: more than the beginning of a record."""
MOST_BYTES = 1 << 30
"""Of a record that is read into memory; a length beyond it is damaged."""


class FileBytes:
    """The bytes of a file, read where they are asked for, up to where it ended when opened."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be read.
        """
        self._size = path.stat().st_size
        self._file = path.open("rb")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        self._file.seek(part.start)
        return self._file.read(max(min(part.stop, self._size) - part.start, 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


Bytes = FileBytes | bytes


NO_FIELDS: Mapping[bytes, bytes] = {}
Record = tuple[int, int, int, int, Mapping[bytes, bytes]]
"""Kind; where its body begins; where it ends (for a truncated chunk, beyond the end of the file);
up to where it reaches for certain, whatever follows it; its header, where the format has one of
names and values. A plain tuple, as there may be millions of them."""


@dataclass
class Damage:
    """What was not readable."""

    records: int = 0
    """Places at which chunks or records were left out."""
    tail_bytes: int = 0
    """Bytes at the end that belong to no whole record."""


class Format(NamedTuple):
    """How the records of a file format are parsed."""

    record_at: Callable[[Bytes, int], Record | None]
    """The record that begins there; None where none can."""
    beginnings: Callable[[bytes], Iterator[int]]
    """Places in a block at which a record may begin."""


def walk(data: Bytes, start: int, form: Format, damage: Damage) -> Iterator[Record]:
    """Records in their order; the last one may be a chunk that breaks off."""
    at = sure = start
    size, record_at = len(data), form.record_at
    while at < size:
        record = record_at(data, at)
        if record is not None:
            yield record
            _, _, at, sure, _ = record
            continue
        found = _next_record(data, sure, form)
        if found is None:
            damage.tail_bytes = size - at
            return
        damage.records += 1
        at = sure = found


def _next_record(data: Bytes, start: int, form: Format) -> int | None:
    """Where the next record begins that is followed by another one or by the end."""
    size = FIRST_BLOCK
    while start < len(data):
        block = data[start : start + size + MARGIN]
        for place in form.beginnings(block):
            record = form.record_at(data, start + place)
            if record and (record[2] >= len(data) or form.record_at(data, record[2])):
                return start + place
        start, size = start + size, min(2 * size, BLOCK)
    return None
