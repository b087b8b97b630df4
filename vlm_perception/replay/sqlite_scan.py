# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a sqlite3 file of a recording in the order of its rows, as far as it goes.

For files that were cut off and for those that a recorder still writes to, whose newest rows lie
in a write-ahead log. Schema: rosbag2_storage_sqlite3.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from vlm_perception.replay.packing import unpacked_if_whole
from vlm_perception.replay.storage import Message, StorageError, Topic, still_written, survey

TOPICS = """
    SELECT topics.id, topics.name, topics.type, topics.serialization_format FROM topics
"""
ROWS = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"


class ScannedSqlite:
    """A sqlite3 file that may be damaged or incomplete."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its topics.

        Raises:
            StorageError: it is no recording, or damaged where the topics stand.
        """
        self._path = path
        try:
            # Not immutable=1: what stands in the write-ahead log is to be read, too.
            self._base = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
            # Without this, SQLite refuses a file that is shorter than its header says.
            self._base.execute("PRAGMA writable_schema=ON")
            rows = self._base.execute(TOPICS).fetchall()
            definitions = self._definitions()
        except sqlite3.Error as error:
            raise StorageError(f"{path.name} is no recording that SQLite reads: {error}") from error
        self.loss = ""
        self._topics = {
            number: Topic(name, kind, encoding, *definitions.get(kind, ("", "")))
            for number, name, kind, encoding in rows
            # What SQLite makes of a page that is not there.
            if all(isinstance(each, str) for each in (name, kind, encoding))
        }

    @cached_property
    def _survey(self) -> tuple[Counter[int], int]:
        return survey(self._rows())

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics; the whole file is read for them."""
        counts, _ = self._survey
        return tuple(replace(topic, count=counts[number]) for number, topic in self._topics.items())

    @property
    def start_ns(self) -> int:
        """Time of the first message; 0 when there is none."""
        return self._survey[1]

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        """Messages of these topics in the order in which they were written."""
        for topic, time_ns, data in self._rows():
            name = self._topics[topic].name
            if name in names and start_ns <= time_ns < stop_ns:
                yield Message(name, time_ns, unpacked_if_whole(data))

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        """Topic, time and data of every message that can be read to its last byte."""
        damaged = 0
        try:
            for _, topic, time_ns, data in self._base.execute(ROWS, (-1,)):
                if topic in self._topics and isinstance(time_ns, int) and isinstance(data, bytes):
                    yield topic, time_ns, data
                else:
                    damaged += 1
        except sqlite3.Error as error:
            self.loss = (
                f"{self._path.name}: the rest of the file cannot be read, {error} "
                f"({still_written(self._path)})"
            )
            return
        if damaged:
            self.loss = (
                f"{self._path.name}: {damaged} message(s) cannot be read "
                f"({still_written(self._path)})"
            )

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
