# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Opens one file of a recording: by its index where it has one, else by a scan."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vlm_perception.replay.storage import compression, mcap_scan, ros1_scan, sqlite_scan
from vlm_perception.replay.storage.indexed_file import IndexedFile
from vlm_perception.replay.storage.mcap_scan import ScannedMcap
from vlm_perception.replay.storage.ros1_scan import ScannedRos1
from vlm_perception.replay.storage.sqlite_scan import ScannedSqlite
from vlm_perception.replay.storage.types import (
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
HAS_INDEX = {
    ".mcap": mcap_scan.has_index,
    ".db3": sqlite_scan.has_index,
    ".bag": ros1_scan.has_index,
    ".active": ros1_scan.has_index,
}
MAGICS = {".mcap": mcap_scan.MAGIC, ".bag": ros1_scan.MAGIC, ".db3": b"SQLite format 3\0"}
LONGEST_MAGIC = 16
OLD = ".orig"
"""What `rosbag reindex` puts before the suffix of the bag that it leaves as it was."""


def is_recording(path: Path) -> bool:
    """Whether a file's name is that of a recording."""
    return storage_suffix(path) in SCANNERS


def storage_name(path: Path) -> str:
    """A file's name without the suffix of its compression."""
    return path.stem if path.suffix in compression.OPENERS else path.name


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
    while path.suffix in (*compression.OPENERS, *SCANNERS, OLD):
        path = path.with_suffix("")
    return path.name


def open_file(path: Path) -> StorageFile:
    """Open a file of a recording, whole or not.

    Raises:
        StorageError: nothing of it can be read.
    """
    if path.stat().st_size == 0:
        raise StorageError(f"{path.name} is empty")
    if path.suffix in compression.OPENERS:
        return _Unpacked(path)
    scanner = SCANNERS.get(path.suffix)
    if scanner is None:
        raise StorageError(f"{path.name} is not a recording: give an .mcap, .db3 or .bag file")
    # Of a damaged file, a reader makes nearly anything.
    with suppress(Exception):
        if HAS_INDEX[path.suffix](path):
            return IndexedFile(path, scanner)
    return scanner(path)


class _Copy:
    """What a compressed file holds, in the temporary folder while it is being read."""

    def __init__(self, path: Path) -> None:
        folder = TemporaryDirectory(prefix="vlm_perception_")
        weakref.finalize(self, folder.cleanup)
        self.path = Path(folder.name) / path.stem
        self.whole = compression.unpack_file(path, self.path)


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
            return f"{self._name}: the compressed file is truncated or damaged; {self._file.loss}"
        return self._file.loss

    def messages(self, names: Collection[str], start_ns: int, stop_ns: int) -> Iterator[Message]:
        return self._file.messages(names, start_ns, stop_ns)

    def close(self) -> None:
        self._file.close()
