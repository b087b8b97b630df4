# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A recording: one file or a folder of them, of ROS 1 or ROS 2, whole or damaged."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from vlm_perception.replay.errors import ReplayError
from vlm_perception.replay.files import is_recording, open_file
from vlm_perception.replay.storage import Message, StorageError, Topic

METADATA = "metadata.yaml"
FOREVER_NS = 2**63 - 1


class Bag:
    """The files of a recording, one after the other.

    Topics and their counts are known when it is made; what got lost is known for certain when the
    messages have been read to their end.
    """

    def __init__(self, path: Path) -> None:
        """Look into each file of the recording.

        Args:
            path: an .mcap, .db3 or .bag file, also compressed with zstd or lz4, or a folder of
                them, with or without metadata.yaml.

        Raises:
            ReplayError: there is no such file, or nothing in it can be read.
        """
        self.path = path
        self.notes: list[str] = []
        """What is unusual about the recording without being a loss."""
        self.losses: list[str] = []
        """What could not be read."""
        self._files: list[Path] = []
        topics: dict[str, Topic] = {}
        starts = []
        files, promised = self._list_files()
        for file in files:
            try:
                opened = open_file(file)
            except (StorageError, OSError) as error:
                self._lose(str(error))
                continue
            self._files.append(file)
            for topic in opened.topics:
                known = topics.get(topic.name)
                total = topic.count + (known.count if known else 0)
                topics[topic.name] = replace(known or topic, count=total)
            if opened.start_ns:
                starts.append(opened.start_ns)
            self._lose(opened.loss)
            opened.close()
        if not self._files:
            raise ReplayError(f"nothing of {path} can be read: {'; '.join(self.losses)}")
        self.topics = tuple(sorted(topics.values(), key=lambda each: each.name))
        self.start_ns = min(starts, default=0)
        found = sum(topic.count for topic in self.topics)
        if promised is not None and found < promised:
            self._lose(f"{METADATA} promises {promised} messages and {found} can be read")

    def topic(self, name: str) -> Topic | None:
        """The topic of that name, with or without its leading slash."""
        wanted = name.strip("/")
        return next((each for each in self.topics if each.name.strip("/") == wanted), None)

    def messages(
        self, names: Collection[str], start_ns: int = 0, stop_ns: int = FOREVER_NS
    ) -> Iterator[Message]:
        """Messages of these topics from one time up to before another, file by file."""
        for path in self._files:
            file = open_file(path)
            try:
                yield from file.messages(names, start_ns, stop_ns)
                self._lose(file.loss)
            finally:
                file.close()

    def _lose(self, sentence: str) -> None:
        if sentence and sentence not in self.losses:
            self.losses.append(sentence)

    def _list_files(self) -> tuple[list[Path], int | None]:
        """The files in their order, and how many messages they should hold."""
        if not self.path.exists():
            raise ReplayError(f"{self.path} does not exist; give a bag's file or folder")
        if not self.path.is_dir():
            return [self.path], None
        present = sorted(filter(is_recording, self.path.iterdir()), key=_in_order)
        if not present:
            raise ReplayError(f"{self.path} holds no .mcap, .db3 or .bag file, so it is no bag")
        try:
            listed, promised = _read_metadata(self.path / METADATA)
        except FileNotFoundError:
            self.notes.append(f"{METADATA} is missing; the files are read in order of their names")
            return present, None
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            self.notes.append(
                f"{METADATA} cannot be used ({type(error).__name__}); the files are read in order "
                "of their names"
            )
            return present, None
        missing = [name for name in listed if not (self.path / name).exists()]
        for name in missing:
            self._lose(f"{name} is missing, which {METADATA} lists")
        return [self.path / name for name in listed if name not in missing] or present, promised


def _read_metadata(file: Path) -> tuple[list[str], int]:
    """Names of the files and number of messages that rosbag2 wrote down."""
    content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    information = content["rosbag2_bagfile_information"]
    names = [Path(str(name)).name for name in information["relative_file_paths"]]
    return names, int(information["message_count"])


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Sorts bag_2 before bag_10."""
    return [(int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]
