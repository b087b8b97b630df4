# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a stage does: its tasks, the work of a task, and what is done with all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.recipe import Recipe
from vlm_perception.curation.stage_folder import KEPT, require_whole
from vlm_perception.curation.tasks import Record, Work

RECORDS_PER_TASK = 256


@dataclass(frozen=True)
class Finish:
    """The end of a stage: all its tasks are done."""

    folder: Path
    """Of the whole set."""
    made: Path
    """Where files of the stage itself are written; it is not yet in its place."""
    recipe: Recipe
    received: int
    """Images, which is as many as there are records at most."""
    progress: Callable[[int, int], None]
    """Is told how many more records were looked at, and how many of them are near-duplicates."""
    notes: list[str] = field(default_factory=list)
    """What people should know of the stage, a sentence each."""


def as_they_are(records: Iterable[Record], _: Finish) -> Iterable[Record]:
    """What a stage whose tasks have decided everything does at its end."""
    return records


@dataclass(frozen=True)
class Step:
    """What is done in a stage."""

    tasks: Callable[[Path, Recipe], Iterable[dict[str, Any]]]
    """The tasks, given the folder of the whole set."""
    work: Work
    """Does one of them."""
    finish: Callable[[Iterable[Record], Finish], Iterable[Record]] = as_they_are
    """Decides what can be decided only when all records are there; these can be iterated more than
    once."""
    again: Callable[[Record], bool] | None = None
    """Whether a later run does the task of a record again, as long as the stage is unfinished: an
    answer that did not come may come then. None: no task is ever done again."""


def kept_in(folder: Path, stage: str) -> Iterator[list[Record]]:
    """What a stage has kept, in pieces of the size of a task.

    Args:
        folder: that of the whole set.
        stage: its name.

    Raises:
        DamagedError: its lists are not as they were written.
    """
    require_whole(folder, stage)
    records: list[Record] = []
    for record in read_lines(folder / stage / KEPT):
        records.append(record)
        if len(records) == RECORDS_PER_TASK:
            yield records
            records = []
    if records:
        yield records
