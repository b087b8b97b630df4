# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of `vlm-perception distil` is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlm_perception.training.distillation.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """A recipe and the folder of its results."""

    recipe: Recipe
    home: Path
    """Folder of the recipe, which the paths in it are relative to."""
    out: Path

    def done(self, part: str) -> Path | None:
        """The folder of a part, if it is complete."""
        folder = self.out / part
        return folder if folder.is_dir() else None

    def place(self, text: str) -> Path:
        """A path of the recipe."""
        return self.home / Path(text).expanduser()


@dataclass(frozen=True)
class Part:
    """A part of a run."""

    name: str
    """Of the section of the recipe, and of the folder."""
    make: Callable[[Run, Path], None]
    """Makes it in a folder, or goes on with what an interrupted run has left there."""
    check: Callable[[Run], None] = lambda run: None
    """Refuses what the recipe asks of it, before any part is made."""
    together: bool = False
    """Whether all processes of a run make it; else the first does, and the others wait."""
