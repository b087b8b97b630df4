# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How every evaluation and benchmark reports its results: on the console, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from vlm_perception.evaluation.machine_load import Load
from vlm_perception.outputs.console import say
from vlm_perception.outputs.file import write_figures

FAILED = 1


@dataclass(frozen=True)
class Report:
    """What was found, for people and for programs."""

    parts: Sequence[RenderableType]
    """What is printed: tables, and sentences beside them."""
    figures: Mapping[str, object] | None = None
    """By their JSON keys; None: there are none to keep, as of what was interrupted. `valid` is
    added; figures that depend on a load at which nobody looked have None there themselves.
    """
    load: Load | None = None
    """What others took of the machine; None where the figures do not depend on it."""
    code: int = 0
    """The exit code; figures that were measured on a loaded machine give 1 in any case."""

    def show(self, console: Console, json_file: Path | None) -> int:
        """Print everything, write the figures and return the exit code.

        Raises:
            OutputError: `json_file` exists and was not written by this verb.
            OSError: it cannot be written.
        """
        for part in self.parts:
            if isinstance(part, str | Text):
                say(console, part)
            else:
                console.print(part)
        if self.load is not None:
            say(console, self.load.verdict(), self.load.style)
        if json_file is not None and self.figures is not None:
            write_figures(json_file, finite({**self._validity(), **self.figures}))
            say(console, f"Written to {json_file}")
        return self.code if self.load is None or self.load.quiet else FAILED

    def _validity(self) -> dict[str, object]:
        if self.load is None:
            return {"valid": True}
        return {"valid": self.load.quiet, "load": self.load.as_json()}


def figure_table(title: str, *headings: str, words: int = 1, caption: str | None = None) -> Table:
    """An empty table: its first columns are words, the others figures, aligned to the right."""
    columns = (
        Column(heading, justify="right" if index >= words else "left")
        for index, heading in enumerate(headings)
    )
    return Table(*columns, title=title, caption=caption)


def finite(value: object) -> object:
    """The same figures with None for what could not be measured: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
