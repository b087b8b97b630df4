# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A progress bar of a stage."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StageProgress:
    """Progress, with what was rejected and why so far."""

    def __init__(self, stage: str, console: Console) -> None:
        self._stage, self._counts = stage, Counter[str]()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"{stage}: listing", total=None, counts="")

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int, done: int, what: str = "tasks") -> None:
        """Show what is done of so many tasks, or of what else is counted."""
        self._bar.update(
            self._task, description=f"{self._stage}: {what}", total=total, completed=done
        )

    def advance(self, counts: dict[str, int]) -> None:
        """Note that a task is done, with how many images were kept, or left out and why."""
        self._show(1, counts)

    def _show(self, done: int, counts: dict[str, int]) -> None:
        self._counts.update(counts)
        known = sorted((name, count) for name, count in self._counts.items() if name and count)
        shown = ", ".join(f"{count} {name}" for name, count in known)
        self._bar.update(self._task, advance=done, counts=shown)

    def compared(self, count: int, duplicates: int) -> None:
        """Note that so many more images were looked at, and how many are near-duplicates."""
        if duplicates:
            # Of those that the tasks kept, and it is not known yet how many stay.
            self._counts.pop("kept", None)
        self._show(count, {"near-duplicates": duplicates})
