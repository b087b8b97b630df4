# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The tasks of a stage: pieces of its work, each of which any process can do, once.

A stage is first cut into tasks, files that say what to do. What a task has found is added in parts
of up to RECORDS_A_PART records, so that a task that was interrupted goes on after its last part. A
task that is done is never done again, and what it finds depends on the task alone: in the end the
parts, read in the order of the tasks, are the same for any number of workers and any interruptions.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm_perception.curation.json_lines import DamagedError, json_line, read_lines, write_lines
from vlm_perception.outputs.durable import write_bytes

RECORDS_A_PART = 64
LISTED = "listed.json"

Record = dict[str, Any]
Position = Any
"""Where a task goes on, as JSON."""
Work = Callable[[dict[str, Any], Path, Position], Iterator[tuple[Record, Position]]]
"""Does a task: gives each record with the position after it. The last argument is the position at
which to go on, None at the beginning; the one before it is the stage's unfinished folder."""


class Tasks:
    """The tasks of a stage, in its unfinished folder."""

    def __init__(self, folder: Path) -> None:
        """Take a folder; its tasks are listed, or will be."""
        self.folder = folder
        self._tasks, self._parts = folder / "tasks", folder / "parts"

    @property
    def count(self) -> int | None:
        """How many there are; None: they are not all listed."""
        try:
            return int(json.loads((self.folder / LISTED).read_bytes()))
        # Where it is damaged, they are listed again, which are the same.
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, tasks: Iterable[dict[str, Any]]) -> int:
        """List them, once; returns how many there are."""
        if self.count is None:
            self._tasks.mkdir(exist_ok=True)
            self._parts.mkdir(exist_ok=True)
            count = 0
            for count, task in enumerate(tasks, 1):
                write_bytes(self._tasks / _name(count - 1), json_line(task))
            write_bytes(self.folder / LISTED, json.dumps(count).encode())
        return self.count or 0

    def open_ones(self) -> list[int]:
        """The numbers of those that are not done."""
        return [number for number in range(self.count or 0) if not self._last(number)[2]]

    def open_again(self, again: Callable[[Record], bool]) -> None:
        """Open the tasks that have found a record for which this is true."""
        for number in range(self.count or 0):
            parts = list(self._of_task(number))
            found = (line for part in parts for line in self._lines(part))
            if any("position" not in line and again(line) for line in found):
                for part in reversed(parts):
                    part.unlink()

    def do(self, number: int, work: Work) -> Counter[str]:
        """Do what is left of a task; counts its new records by rule or fault, else by status."""
        task = self._task(number)
        part, begin, done = self._last(number)
        counts: Counter[str] = Counter()
        if done:
            return counts
        began, records, position = time.process_time(), [], begin
        for record, position in work(task, self.folder, begin):
            records.append(record)
            counts[str(record.get("rule") or record.get("fault") or record["status"])] += 1
            if len(records) == RECORDS_A_PART:
                self._add(number, part, records, position, began)
                began, records, part = time.process_time(), [], part + 1
        self._add(number, part, records, position, began, end=True)
        return counts

    def records(self) -> Iterator[Record]:
        """What all tasks have found, in their order."""
        for number in range(self.count or 0):
            for part in self._of_task(number):
                for line in self._lines(part):
                    if "position" not in line:
                        yield line

    def totals(self) -> tuple[int, float]:
        """How many records the tasks gave when they were done, and the processor time they took."""
        ends = [self._end(part) for n in range(self.count or 0) for part in self._of_task(n)]
        return sum(end["given"] for end in ends), sum(float(end["cpu_s"]) for end in ends)

    def _task(self, number: int) -> dict[str, Any]:
        file = self._tasks / _name(number)
        match [*self._lines(file)]:
            case [task]:
                return task
        raise DamagedError(f"{file} is damaged; {self._remedy}")

    def _add(
        self,
        number: int,
        part: int,
        records: list[Record],
        position: Position,
        began: float,
        end: bool = False,
    ) -> None:
        took_s = time.process_time() - began
        last = {"position": position, "end": end, "given": len(records), "cpu_s": took_s}
        write_lines(self._parts / _name(number, part), [*records, last])

    def _last(self, number: int) -> tuple[int, Position, bool]:
        """The number of the next part, where it begins, and whether there is none."""
        parts = list(self._of_task(number))
        if not parts:
            return 0, None, False
        end = self._end(parts[-1])
        return len(parts), end["position"], end["end"]

    def _of_task(self, number: int) -> Iterator[Path]:
        part = 0
        while (file := self._parts / _name(number, part)).exists():
            yield file
            part += 1

    def _end(self, part: Path) -> dict[str, Any]:
        last: dict[str, Any] = {}
        for last in self._lines(part):  # noqa: B007 - the last is wanted
            pass
        if "position" not in last:
            raise DamagedError(f"{part} is cut off; {self._remedy}")
        return last

    def _lines(self, file: Path) -> Iterator[dict[str, Any]]:
        return read_lines(file, self._remedy)

    @property
    def _remedy(self) -> str:
        return f"remove {self.folder} to begin the stage anew"


def _name(number: int, part: int | None = None) -> str:
    return f"{number:08d}.json" if part is None else f"{number:08d}-{part:06d}.jsonl"
