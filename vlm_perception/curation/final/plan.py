# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which image goes into which split, and into which shard of it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.final.groups import Groups, Sorter
from vlm_perception.curation.final.shard import described, room
from vlm_perception.curation.final.splits import assigned, chances
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.recipe import Recipe
from vlm_perception.curation.stage_folder import FILTERED, FINAL, KEPT, REJECTED, before
from vlm_perception.curation.tasks import Record

MOST_IMAGES = 10_000
"""Of a shard, however small they are."""


@dataclass(frozen=True)
class Planned:
    """A shard that is to be written."""

    name: str
    """`train/000000.tar`."""
    records: list[Record]


@dataclass(frozen=True)
class Plan:
    """Where each image goes; some 60 bytes of each are held."""

    lines: Path
    """The list of the images."""
    offsets: NDArray[np.int64]
    """Where the line of each begins."""
    groups: Groups
    splits: Sequence[str]
    """Of each group."""

    def shards(self, folder: Path, recipe: Recipe) -> Iterator[Planned]:
        """The shards of all splits, each in turn.

        Args:
            folder: that of the whole set.
            recipe: of the set.
        """
        settings = recipe.final
        for split in settings.splits:
            mine = np.array([each == split for each in self.splits])[self.groups.of_images]
            numbers = np.flatnonzero(mine)
            if settings.shuffle:
                order = chances(len(self.offsets), f"{settings.seed} order")[numbers]
                numbers = numbers[np.argsort(order, kind="stable")]
            records = self._records(numbers, split, recipe)
            for count, some in enumerate(_cut(folder, records, settings.shard_mb * 1_000_000)):
                name = _name(split, count)
                yield Planned(name, [{**record, "shard": name} for record in some])

    def _records(self, numbers: NDArray[np.int64], split: str, recipe: Recipe) -> Iterator[Record]:
        with self.lines.open("rb") as stream:
            for number in numbers:
                stream.seek(self.offsets[number])
                record = json.loads(stream.readline())
                place = recipe.sources[record["source"]].place
                known = {"place": place} if place else {}
                yield {**record, **known, "split": split, "shard": _name(split, 0)}

    def counts(self) -> Mapping[str, int]:
        """Images of each split that has some."""
        found: dict[str, int] = {}
        for split, size in zip(self.splits, self.groups.sizes, strict=True):
            found[split] = found.get(split, 0) + int(size)
        return found

    def largest(self) -> Record:
        """An image of the largest group."""
        number = int(np.argmax(self.groups.of_images == np.argmax(self.groups.sizes)))
        with self.lines.open("rb") as stream:
            stream.seek(self.offsets[number])
            record: Record = json.loads(stream.readline())
        return record


def planned(folder: Path, recipe: Recipe) -> Plan:
    """The plan for what the stage before has kept.

    Args:
        folder: that of the whole set.
        recipe: of the set.
    """
    offsets, sorter = array("q"), Sorter(folder, recipe.sources)
    lines, filtered = folder / before(FINAL) / KEPT, folder / FILTERED
    for record in read_lines(filtered / REJECTED):
        if "stayed" in record:
            sorter.add_left_out(record)
    for record in read_lines(filtered / KEPT):
        sorter.add_stayed(record)
    with lines.open("rb") as stream:
        at = 0
        for line in stream:
            offsets.append(at)
            at += len(line)
            sorter.add(json.loads(line))
    groups, settings = sorter.groups(), recipe.final
    splits = assigned(groups.sizes, settings.splits, settings.seed)
    return Plan(lines, np.frombuffer(offsets, np.int64), groups, splits)


def _name(split: str, count: int) -> str:
    return f"{split}/{count:06d}.tar"


def _cut(folder: Path, records: Iterator[Record], most: int) -> Iterator[list[Record]]:
    """Records for shards of so many bytes or fewer, of which each has one image at least."""
    some: list[Record] = []
    held = 0
    for record in records:
        needs = room(_sizes(folder, record))
        if some and (held + needs > most or len(some) == MOST_IMAGES):
            yield some
            some, held = [], 0
        some.append(record)
        held += needs
    if some:
        yield some


def _sizes(folder: Path, record: Record) -> list[int]:
    try:
        size = (folder / record["file"]).stat().st_size
    # It fails when the shard is written.
    except OSError:
        size = 0
    return [size, len(described(record))]
