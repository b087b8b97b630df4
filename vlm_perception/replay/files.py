# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Opens one file of a recording: by its index where it has one, else by a scan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import rosbags.rosbag1
import rosbags.rosbag2
from rosbags.interfaces import Connection, ConnectionExtRosbag2

from vlm_perception.replay import mcap_scan, packing, ros1_scan
from vlm_perception.replay.mcap_scan import ScannedMcap
from vlm_perception.replay.ros1_scan import ScannedRos1
from vlm_perception.replay.sqlite_scan import ScannedSqlite
from vlm_perception.replay.storage import (
    ROS1,
    Message,
    StorageError,
    StorageFile,
    Topic,
)

SCANNERS: dict[str, Callable[[Path], StorageFile]] = {
    ".mcap": ScannedMcap,
    ".db3": ScannedSqlite,
    ".bag": ScannedRos1,
    ".active": ScannedRos1,
}
"""By suffix; ROS 1 calls a bag that is still being recorded NAME.bag.active."""
MAGICS = {".mcap": mcap_scan.MAGIC, ".bag": ros1_scan.MAGIC, ".db3": b"SQLite format 3\0"}
LONGEST_MAGIC = 16
OLD = ".orig"
"""What `rosbag reindex` puts before the suffix of the bag that it leaves as it was."""


def is_recording(path: Path) -> bool:
    """Whether a file's name is that of a recording."""
    return storage_suffix(path) in SCANNERS


def storage_name(path: Path) -> str:
    """A file's name without the suffix of its compression."""
    return path.stem if path.suffix in packing.OPENERS else path.name


def storage_suffix(path: Path) -> str:
    """Suffix of a file's name without that of its compression."""
    return Path(storage_name(path)).suffix


def suffix_by_content(path: Path) -> str:
    """The suffix that a recording should have by its first bytes; empty: it is none."""
    with path.open("rb") as file:
        start = file.read(LONGEST_MAGIC)
    return next((suffix for suffix, magic in MAGICS.items() if start.startswith(magic)), "")


def title(path: Path) -> str:
    """A file's name without the suffixes that storage, compression and mending gave it."""
    while path.suffix in (*packing.OPENERS, *SCANNERS, OLD):
        path = path.with_suffix("")
    return path.name


def open_file(path: Path) -> StorageFile:
    """Open a file of a recording, whole or not.

    Raises:
        StorageError: nothing of it can be read.
    """
    if path.stat().st_size == 0:
        raise StorageError(f"{path.name} is empty")
    if path.suffix in packing.OPENERS:
        return _Unpacked(path)
    scanner = SCANNERS.get(path.suffix)
    if scanner is None:
        raise StorageError(f"{path.name} is no recording: give an .mcap, .db3 or .bag file")
    if _has_log(path):
        return scanner(path)
    try:
        return _Indexed(path)
    # Of a damaged file, a reader makes nearly anything.
    except Exception:
        return scanner(path)


def _has_log(path: Path) -> bool:
    """Whether the newest rows of a sqlite3 file lie in a log beside it."""
    log = path.with_name(f"{path.name}-wal")
    return path.suffix == ".db3" and log.exists() and log.stat().st_size > 0


class _Indexed:
    """A file that rosbags reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: rosbags.rosbag1.Reader | rosbags.rosbag2.Reader = (
            rosbags.rosbag1.Reader(path)
            if path.suffix in (".bag", ".active")
            else rosbags.rosbag2.Reader(path)
        )
        self._reader.open()
        self.loss = ""
        topics: dict[str, Topic] = {}
        for connection in self._reader.connections:
            topic = _topic(connection)
            known = topics.get(topic.name, topic)
            count = topic.count + (known.count if topic.name in topics else 0)
            topics[topic.name] = replace(known, count=count)
        self.topics = tuple(topics.values())
        self.start_ns = self._reader.start_time if any(each.count for each in self.topics) else 0

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        connections = [each for each in self._reader.connections if each.topic in names]
        if not connections:
            return
        reached = start_ns
        try:
            for connection, time_ns, data in self._reader.messages(connections, start_ns, stop_ns):
                reached = time_ns + 1
                yield Message(connection.topic, time_ns, packing.unpacked(bytes(data)))
        # As when it was opened.
        except Exception:
            rest = SCANNERS[self._path.suffix](self._path)
            try:
                yield from rest.messages(names, reached, stop_ns)
                self.loss = rest.loss
            finally:
                rest.close()

    def close(self) -> None:
        self._reader.close()


def _topic(connection: Connection) -> Topic:
    ext, rosbag2 = connection.ext, isinstance(connection.ext, ConnectionExtRosbag2)
    return Topic(
        connection.topic,
        connection.msgtype,
        ext.serialization_format if isinstance(ext, ConnectionExtRosbag2) else ROS1,
        connection.msgdef.data,
        connection.digest if rosbag2 else "",
        connection.msgcount,
        tuple(ext.offered_qos_profiles) if isinstance(ext, ConnectionExtRosbag2) else (),
    )


class _Copy:
    """What a compressed file holds, in the temporary folder as long as somebody reads it."""

    def __init__(self, path: Path) -> None:
        folder = TemporaryDirectory(prefix="vlm_perception_")
        weakref.finalize(self, folder.cleanup)
        self.path = Path(folder.name) / path.stem
        self.whole = packing.unpack_file(path, self.path)


@lru_cache(maxsize=1)
def _copy_of(path: Path, changed_ns: int) -> _Copy:
    """The copy; the last one is kept, as a recording is read several times."""
    return _Copy(path)


class _Unpacked:
    """A file that was compressed as a whole."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._copy = _copy_of(path.absolute(), path.stat().st_mtime_ns)
        self._file = open_file(self._copy.path)

    @property
    def topics(self) -> tuple[Topic, ...]:
        return self._file.topics

    @property
    def start_ns(self) -> int:
        return self._file.start_ns

    @property
    def loss(self) -> str:
        if not self._copy.whole:
            return f"{self._name}: the compressed file breaks off or is damaged; {self._file.loss}"
        return self._file.loss

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        return self._file.messages(names, start_ns, stop_ns)

    def close(self) -> None:
        self._file.close()
