# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which images must not be in two splits: those of one recording, of one place, or the same file.

Frames of a drive resemble each other, and so do drives through one street; a model would be tested
on what it was trained on.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.recipe import (
    CocoSource,
    HarvestSource,
    RecordingSource,
    Source,
    WebDatasetSource,
)
from vlm_perception.curation.stage_folder import PHASH
from vlm_perception.curation.tasks import Record
from vlm_perception.replay.recordings.bag import METADATA
from vlm_perception.replay.recordings.open_file import is_recording

Key = tuple[object, ...]


@dataclass(frozen=True)
class Groups:
    """The groups of a sequence of images."""

    of_images: NDArray[np.int64]
    """[images], the number of each image's group; groups are numbered as they come."""
    sizes: NDArray[np.int64]
    """[groups], images."""


class Sorter:
    """Puts images into groups, one after the other; holds some 30 bytes of each."""

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        """Take the sources that the images name by number.

        Args:
            folder: what the paths of the sources are relative to.
            sources: of the recipe.
        """
        self._sources = sources
        self._parents = array("q")
        self._known: dict[Key, int] = {}
        self._images = array("q")
        self._nodes = array("q")
        self._digests = array("Q")
        self._roots = [_root(folder, source) for source in sources]
        self._bags: dict[str, list[int]] = {}
        """Of each name that a harvest may tell, the recordings."""
        for source, path in zip(sources, self._roots, strict=True):
            if isinstance(source, RecordingSource):
                self._add_recording(path, Path(source.path).name)

    def add(self, record: Record) -> None:
        """Take the next image."""
        node = self._of(record)
        self._images.append(node)
        self._digest(record, node)

    def add_left_out(self, record: Record) -> None:
        """Take an image that is not in the set, a copy of one that may be.

        What both were taken from belongs together. Only equal files and near ones by their hash
        count: embeddings are near where two scenes resemble each other, too.
        """
        node = self._of(record)
        self._digest(record, node)
        if record["rule"] == PHASH:
            self._join(node, self._node(("stayed", record["stayed"])))

    def add_stayed(self, record: Record) -> None:
        """Take an image that 01_filtered has kept, after all that were left out."""
        key = ("stayed", record["id"])
        if key in self._known:
            self._join(self._known[key], self._of(record))

    def groups(self) -> Groups:
        """The groups of what was added."""
        digests = np.frombuffer(self._digests, np.uint64)
        images, nodes = (np.frombuffer(some, np.int64) for some in (self._images, self._nodes))
        order = np.argsort(digests, kind="stable")
        same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
        for at in same:
            self._join(int(nodes[order[at]]), int(nodes[order[at + 1]]))
        roots = np.fromiter((self._root(node) for node in images), np.int64, len(images))
        _, first, numbers = np.unique(roots, return_index=True, return_inverse=True)
        as_they_come = np.empty(len(first), np.int64)
        as_they_come[np.argsort(first, kind="stable")] = np.arange(len(first))
        of_images = as_they_come[numbers]
        return Groups(of_images, np.bincount(of_images, minlength=len(first)))

    def _of(self, record: Record) -> int:
        """The node of what an image was taken from; of an unrelated one, its own."""
        source = self._sources[record["source"]]
        if source.unrelated:
            known = self._known.get(("stayed", record["id"]))
            return self._new() if known is None else known
        here = self._node(self._origin(record, source))
        if source.place:
            self._join(here, self._node(("place", source.place)))
        return here

    def _origin(self, record: Record, source: Source) -> Key:
        """A recording, a tar or a folder, each by its path; of a harvest, a recording's name."""
        root = self._roots[record["source"]]
        if isinstance(source, RecordingSource):
            return "file", str(root)
        if isinstance(source, HarvestSource) and "recording" in record:
            key = "harvested", record["recording"]
            if key not in self._known:
                for bag in self._bags.get(record["recording"], ()):
                    self._join(self._node(key), bag)
            return key
        if isinstance(source, WebDatasetSource):
            return "file", str(root / record["recording"])
        return "file", os.path.normpath(root / PurePosixPath(record["path"]).parent)

    def _add_recording(self, path: Path, name: str) -> None:
        """Make known by what other paths and names a recording may come."""
        here = self._node(("file", str(path)))
        parts = [path]
        with suppress(OSError):
            parts += sorted(file for file in path.iterdir() if is_recording(file))
        for part in parts:
            self._join(here, self._node(("file", str(part))))
        for each in {name, *(part.name for part in parts)}:
            self._bags.setdefault(each, []).append(here)

    def _digest(self, record: Record, node: int) -> None:
        self._digests.append(int(record["sha256"][:16], 16))
        self._nodes.append(node)

    def _new(self) -> int:
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def _node(self, key: Key) -> int:
        if key not in self._known:
            self._known[key] = self._new()
        return self._known[key]

    def _root(self, node: int) -> int:
        while self._parents[node] != node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self._parents[max(one, other)] = min(one, other)


def _root(folder: Path, source: Source) -> Path:
    """What the paths of a source's images are relative to, or the whole bag of a recording."""
    named = source.images if isinstance(source, CocoSource) else source.path
    path = Path(os.path.realpath(folder / named))
    part = isinstance(source, RecordingSource) and is_recording(path)
    whole = part and (path.parent / METADATA).is_file()
    return path.parent if whole or isinstance(source, WebDatasetSource) else path


def recording(record: Record) -> str:
    """The name of what an image was taken from, within its source."""
    return str(record.get("recording") or PurePosixPath(record["path"]).parent)
