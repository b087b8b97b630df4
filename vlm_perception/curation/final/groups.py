# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which images must not be in two splits: those of one recording, of one place, or the same file.

Frames of a drive resemble each other, and so do drives through one street; a model would be tested
on what it was trained on.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.recipe import HarvestSource, RecordingSource, Source
from vlm_perception.curation.tasks import Record

Key = tuple[object, ...]


@dataclass(frozen=True)
class Groups:
    """The groups of a sequence of images."""

    of_images: NDArray[np.int64]
    """[images], the number of each image's group; groups are numbered as they come."""
    sizes: NDArray[np.int64]
    """[groups], images."""


class Sorter:
    """Puts images into groups, one after the other; holds some 20 bytes of each."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Take the sources that the images name by number."""
        self._sources = sources
        self._parents = array("q")
        self._known: dict[Key, int] = {}
        self._images = array("q")
        self._digests = array("Q")

    def add(self, record: Record) -> None:
        """Take the next image."""
        source = self._sources[record["source"]]
        self._digests.append(int(record["sha256"][:16], 16))
        if source.unrelated:
            self._images.append(self._new())
            return
        here = self._node(_origin(record, source))
        self._images.append(here)
        if source.place:
            self._join(here, self._node(("place", source.place)))

    def groups(self) -> Groups:
        """The groups of what was added."""
        digests = np.frombuffer(self._digests, np.uint64)
        images = np.frombuffer(self._images, np.int64)
        order = np.argsort(digests, kind="stable")
        same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
        for at in same:
            self._join(int(images[order[at]]), int(images[order[at + 1]]))
        roots = np.fromiter((self._root(node) for node in images), np.int64, len(images))
        _, first, numbers = np.unique(roots, return_index=True, return_inverse=True)
        as_they_come = np.empty(len(first), np.int64)
        as_they_come[np.argsort(first, kind="stable")] = np.arange(len(first))
        of_images = as_they_come[numbers]
        return Groups(of_images, np.bincount(of_images, minlength=len(first)))

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


def _origin(record: Record, source: Source) -> Key:
    """What an image was taken from: a recording, a tar, or a folder of its source."""
    # The recording that was harvested may be a source itself.
    if "recording" in record and isinstance(source, RecordingSource | HarvestSource):
        return "recording", record["recording"]
    return record["source"], recording(record)


def recording(record: Record) -> str:
    """The name of what an image was taken from, within its source."""
    return str(record.get("recording") or PurePosixPath(record["path"]).parent)
