# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a sqlite3 file of a recording in the order of its rows, as far as it goes.

For files that were cut off and for those that a recorder still writes to, whose newest rows are in
a write-ahead log. Schema: rosbag2_storage_sqlite3.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlm_perception.replay.storage.scan import Entry, Scan
from vlm_perception.replay.storage.types import StorageError, Topic, still_written

TOPICS = """
    SELECT topics.id, topics.name, topics.type, topics.serialization_format FROM topics
"""
ROWS = "SELECT id, topic_id, timestamp, data FROM messages WHERE id >= ? ORDER BY id LIMIT ?"

ALL = -1
MOST_ROWS = 1 << 40
ROWS_OF_A_PAGE = 256
TAIL_BYTES = 16


def has_index(path: Path) -> bool:
    """Whether a file ends with a whole page, and has no log beside it that holds newer rows."""
    log = path.with_name(f"{path.name}-wal")
    return not _cut_page(path) and not (log.exists() and log.stat().st_size)


def _cut_page(path: Path) -> bytes:
    """What there is of the last page, where the file ends within it."""
    with path.open("rb") as file:
        page_bytes = int.from_bytes(file.read(18)[16:], "big")
        # 1 means 65536; a value that is not a power of two is damaged.
        page_bytes = 1 << 16 if page_bytes == 1 else page_bytes
        size = path.stat().st_size
        rest = size % page_bytes if page_bytes else 0
        file.seek(size - rest)
        return file.read()


class ScannedSqlite(Scan):
    """A sqlite3 file that may be damaged or incomplete."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its topics.

        Raises:
            StorageError: it is no recording, or its topics are damaged.
        """
        super().__init__(path)
        # Not immutable=1: the write-ahead log must be read, too.
        self._base = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            self._base.text_factory = partial(str, encoding="utf-8", errors="replace")
            # Without this, SQLite refuses a file that is shorter than stated in its header.
            self._base.execute("PRAGMA writable_schema=ON")
            rows = self._base.execute(TOPICS).fetchall()
            definitions = self._definitions()
        except sqlite3.Error as error:
            self.close()
            raise StorageError(
                f"{path.name} is not a recording that SQLite can read: {error}"
            ) from error
        self._missing, self._error, self._broke_off = 0, "", False
        self._tail = _cut_page(path)[-TAIL_BYTES:].rstrip(b"\0")
        self._channels = {
            number: Topic(name, kind, encoding, *definitions.get(kind, ("", "")))
            for number, name, kind, encoding in rows
            # What SQLite makes of a page that is not there.
            if all(isinstance(each, str) for each in (name, kind, encoding))
        }

    @property
    def loss(self) -> str:
        """What could not be read when the file was last read to its end."""
        lost = [f"{self._missing} message(s)"] if self._missing else []
        lost += ["the rest of the file"] if self._broke_off else []
        if not lost and not self._error:
            return ""
        return (
            f"{self._path.name}: {' and '.join(lost) or 'part of the file'} cannot be read"
            f"{self._error} ({still_written(self._path)})"
        )

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _entries(self) -> Iterator[Entry]:
        self._missing, self._error, self._broke_off, last = 0, "", False, 0
        for number, topic, time_ns, data in self._rows():
            # Recorders number the rows from 1 on without gaps.
            self._missing, last = self._missing + number - last - 1, number
            whole = isinstance(time_ns, int) and isinstance(data, bytes)
            if whole and topic in self._channels and not self._is_torn(data):
                yield topic, time_ns, data, 0, len(data)
            else:
                self._missing += 1

    def _rows(self) -> Iterator[tuple[int, Any, Any, Any]]:
        """Rows with rising numbers; those of pages that SQLite cannot read are passed over."""
        last, passed, most = 0, 0, ALL
        while last + passed < MOST_ROWS:
            before = last
            try:
                for row in self._base.execute(ROWS, (last + 1 + passed, most)):
                    if not isinstance(row[0], int) or row[0] <= last:
                        raise sqlite3.DatabaseError("rows are out of order")
                    yield row
                    last, passed = row[0], 0
                if most == ALL or last == before:
                    return
                most = ALL
            except sqlite3.Error as error:
                self._error = f", {error}"
                # Python reads one row ahead, and with it loses the one before the damage. So the
                # next one is tried alone, and passed over if it fails.
                passed += 1 + passed // ROWS_OF_A_PAGE if most == 1 else 0
                most = 1
        self._broke_off = True

    def _is_torn(self, data: bytes) -> bool:
        """Whether SQLite filled up a row with zeros that reaches into the file's last, cut page."""
        return bool(self._tail) and data.endswith(b"\0") and data.rstrip(b"\0").endswith(self._tail)

    def _definitions(self) -> dict[str, tuple[str, str]]:
        """Message definition and hash of each type; older recordings hold none."""
        try:
            rows = self._base.execute(
                "SELECT topic_type, encoded_message_definition, type_description_hash "
                "FROM message_definitions"
            ).fetchall()
        except sqlite3.OperationalError:
            return {}
        return {
            kind: (text, digest)
            for kind, text, digest in rows
            if isinstance(text, str) and isinstance(digest, str)
        }
