# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A recording: one file or a folder of them, of ROS 1 or ROS 2, whole or damaged."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from vlm_perception.common.yaml_files import YamlError, read_yaml
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.open_file import is_recording, open_file, storage_name, title
from vlm_perception.replay.storage.types import Message, StorageError, Topic

METADATA = "metadata.yaml"
MOST_METADATA = 1 << 23
"""Bytes; a recording of thousands of files lists each."""
FOREVER_NS = 2**63 - 1


@dataclass(frozen=True)
class _File:
    """What was found in a file of the recording."""

    path: Path
    topics: tuple[Topic, ...]
    start_ns: int
    loss: str

    @property
    def count(self) -> int:
        return sum(topic.count for topic in self.topics)


class Bag:
    """The files of a recording, one after the other.

    Topics and their counts are known when it is made; what got lost is known for certain when the
    messages have been read to their end.
    """

    def __init__(self, path: Path) -> None:
        """Look into each file of the recording.

        Args:
            path: an .mcap, .db3 or .bag file, also compressed (zstd, lz4, gzip, bzip2, xz), or a
                folder of them, with or without metadata.yaml.

        Raises:
            ReplayError: there is no such file, or nothing in it can be read.
        """
        self.path = path
        self.notes: list[str] = []
        """What is unusual about the recording without being a loss."""
        self.losses: list[str] = []
        """What could not be read."""
        if not path.exists():
            raise ReplayError(f"{path} does not exist; give a bag's file or folder")
        files = self._files_of_folder() if path.is_dir() else self._look_into([path])
        if not files:
            raise ReplayError(f"nothing of {path} can be read: {'; '.join(self.losses)}")
        self._files = files
        topics: dict[str, Topic] = {}
        for file in files:
            self._lose(file.loss)
            for topic in file.topics:
                known = topics.get(topic.name)
                total = topic.count + (known.count if known else 0)
                topics[topic.name] = replace(known or topic, count=total)
        self.topics = tuple(sorted(topics.values(), key=lambda each: each.name))
        self.start_ns = min((file.start_ns for file in files if file.start_ns), default=0)

    def topic(self, name: str) -> Topic | None:
        """The topic of that name, with or without its leading slash."""
        wanted = name.strip("/")
        return next((each for each in self.topics if each.name.strip("/") == wanted), None)

    def messages(
        self, names: Collection[str], start_ns: int = 0, stop_ns: int = FOREVER_NS
    ) -> Iterator[Message]:
        """Messages of these topics from one time up to before another, file by file."""
        for known in self._files:
            file = open_file(known.path)
            read = 0
            try:
                for message in file.messages(names, start_ns, stop_ns):
                    read += 1
                    yield message
                if file.loss and known.loss in self.losses:
                    # Why a file ends too early is judged by when it changed last.
                    self.losses.remove(known.loss)
                self._lose(file.loss)
            finally:
                file.close()
            whole = not start_ns and stop_ns == FOREVER_NS
            expected = sum(each.count for each in known.topics if each.name in names)
            if whole and read < expected and not file.loss:
                self._lose(
                    f"{known.path.name}: {expected - read} of {expected} messages cannot be found "
                    "in it, although its index counts them"
                )

    def _lose(self, sentence: str) -> None:
        if sentence and sentence not in self.losses:
            self.losses.append(sentence)

    def _files_of_folder(self) -> list[_File]:
        """The files that hold the recording, each message once, in their order."""
        present = sorted(filter(_is_part, self.path.iterdir()), key=_in_order)
        if not present:
            raise ReplayError(
                f"{self.path} contains no .mcap, .db3 or .bag file, so it is not a bag"
            )
        try:
            listed, promised = _read_metadata(self.path / METADATA)
        except FileNotFoundError:
            self.notes.append(f"{METADATA} is missing; the files are read in order of their names")
            return self._look_into(present)
        except (OSError, YamlError) as error:
            self.notes.append(
                f"{METADATA} cannot be used ({error}); the files are read in order of their names"
            )
            return self._look_into(present)
        return self._listed_files(present, listed, promised)

    def _listed_files(self, present: list[Path], listed: list[str], promised: int) -> list[_File]:
        """What metadata.yaml lists, also where it was packed, unpacked or renamed since."""
        names = {storage_name(Path(name)): name for name in listed}
        chosen = [each for name in names for each in present if storage_name(each) == name]
        there = {storage_name(path) for path in chosen}
        missing = [name for stored, name in names.items() if stored not in there]
        strangers = [path for path in present if path not in chosen]
        files = self._look_into(chosen)
        if strangers and (missing or not files):
            renamed = self._look_into(strangers)
            if not files or _count([*files, *renamed]) == promised:
                files, strangers = [*files, *renamed], []
        if strangers:
            self.notes.append(f"{METADATA} does not list {_names(strangers)}, which is left out")
        found = _count(files)
        if missing and found == promised:
            self.notes.append(
                f"{METADATA} lists {', '.join(missing)}; its {found} messages are from "
                f"{_names([file.path for file in files])}"
            )
            missing = []
        for name in missing:
            self._lose(f"{name} is missing, which {METADATA} lists")
        if found < promised:
            self._lose(f"{METADATA} promises {promised} messages but {found} can be read")
        return files

    def _look_into(self, paths: list[Path]) -> list[_File]:
        """Open each file once; of several that hold the same, the one that holds most is left."""
        files: list[_File] = []
        unreadable: list[tuple[Path, str]] = []
        for path in paths:
            try:
                opened = open_file(path)
            except (StorageError, OSError) as error:
                unreadable.append((path, str(error)))
                continue
            file = _File(path, opened.topics, opened.start_ns, opened.loss)
            opened.close()
            place = next((n for n, each in enumerate(files) if _same(each, file)), None)
            if place is None:
                files.append(file)
                continue
            files[place], other = sorted((files[place], file), key=lambda each: -each.count)
            self._leave_out(other.path, files[place].path)
        for path, why in unreadable:
            twin = next((each.path for each in files if title(each.path) == title(path)), None)
            if twin is None:
                self._lose(why)
            else:
                self._leave_out(path, twin)
        return files

    def _leave_out(self, path: Path, taken: Path) -> None:
        self.notes.append(
            f"{path.name} is left out: {taken.name} is from the same recording and contains at "
            "least as much"
        )


def _read_metadata(file: Path) -> tuple[list[str], int]:
    """Names of the files and number of messages that rosbag2 wrote down.

    Raises:
        OSError: the file cannot be read.
        YamlError: it is no YAML, or holds something else.
    """
    content: Any = read_yaml(file, most_bytes=MOST_METADATA)
    try:
        information = content["rosbag2_bagfile_information"]
        names = [PurePath(name).name for name in information["relative_file_paths"]]
        return names, int(information["message_count"])
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise YamlError(f"it contains no list such as rosbag2 writes: {error!r}") from error


def _is_part(path: Path) -> bool:
    """Whether a file of a folder may be one of the recording; macOS leaves ._NAME beside NAME."""
    return is_recording(path) and not path.name.startswith(".") and path.is_file()


def _same(a: _File, b: _File) -> bool:
    """Whether two files hold the same: one was packed, converted, mended, linked or copied."""
    if title(a.path) == title(b.path) and a.start_ns == b.start_ns:
        return True
    if a.path.stat().st_size != b.path.stat().st_size:
        return False
    return a.path.samefile(b.path) or filecmp.cmp(a.path, b.path, shallow=False)


def _count(files: Collection[_File]) -> int:
    return sum(file.count for file in files)


def _names(paths: Collection[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts bag_2 before bag_10."""
    return [(int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]
