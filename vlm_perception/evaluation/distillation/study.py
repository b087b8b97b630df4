# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of `vlm-perception distil` in a folder: the arms of a study, each with its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.recipe_changes import changes
from vlm_perception.training.distillation.recipe import Recipe
from vlm_perception.training.distillation.run import BEGUN, HOME


class StudyError(VlmPerceptionError):
    """Runs cannot be compared as they are; the text says why and what to do."""


@dataclass(frozen=True)
class SeededRun:
    """A run, whole or not."""

    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        """For people and files."""
        return f"{self.recipe.name}-{self.recipe.seed}"

    def done(self, part: str) -> Path | None:
        """The folder of a part, if it is complete."""
        folder = self.folder / part
        return folder if folder.is_dir() else None

    def place(self, text: str) -> Path | None:
        """A path of the recipe, if it is there still."""
        note = self.folder / HOME
        home = Path(note.read_text().strip()) if note.is_file() else self.folder
        place = home / Path(text).expanduser()
        return place if place.is_dir() else None

    @property
    def unquantized(self) -> Path | None:
        """The checkpoint that the part `quantization` began with, if it is there still."""
        asked = self.recipe.quantization
        if asked is not None and asked.checkpoint is not None:
            return self.place(asked.checkpoint)
        return self.done("language") or self.done("student")

    @property
    def keep(self) -> str:
        """Token pruning that it has learned to live with, as `export --keep` takes it."""
        student, asked = self.recipe.student, self.recipe.quantization
        if asked is not None and asked.keep is not None:
            return asked.keep
        return student.keep if student is not None else ""


def read_runs(folder: Path) -> Mapping[str, Sequence[SeededRun]]:
    """All runs of a folder, by the names of their recipes, each in the order of its seeds.

    Args:
        folder: `NAME/seed-N` in it are runs, or `NAME`.

    Raises:
        StudyError: there is none; a recipe cannot be read; two runs are the same, or two seeds of
            a name have other recipes.
    """
    found: dict[str, list[SeededRun]] = defaultdict(list)
    for file in sorted([*folder.glob(f"*/{BEGUN}"), *folder.glob(f"*/*/{BEGUN}")]):
        try:
            recipe = Recipe.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise StudyError(f"{file} is not the recipe of a run: {error}") from error
        found[recipe.name].append(SeededRun(recipe, file.parent))
    if not found:
        raise StudyError(
            f"{folder} has no runs; `vlm-perception distil RECIPE.yaml --seeds 5 --out {folder}` "
            "makes some"
        )
    for runs in found.values():
        runs.sort(key=lambda run: run.recipe.seed)
        for before, after in pairwise(runs):
            _require_siblings(before, after)
    return dict(found)


def _require_siblings(before: SeededRun, after: SeededRun) -> None:
    if before.recipe.seed == after.recipe.seed:
        raise StudyError(
            f"{before.folder} and {after.folder} are the same recipe with the same seed; move one "
            "away"
        )
    found = differences(before.recipe, after.recipe)
    if found:
        raise StudyError(
            f"{before.folder} and {after.folder} have the same name and not the same recipe "
            f"({'; '.join(found)}); give one of the recipes another name"
        )


def differences(first: Recipe, second: Recipe, parts: Sequence[str] = ()) -> list[str]:
    """What differs between two recipes besides name and seed.

    Args:
        first: one.
        second: the other.
        parts: dotted keys that are looked at; without any all.
    """
    one, other = (
        each.model_dump(mode="json", exclude={"name", "seed"}) for each in (first, second)
    )
    if not parts:
        return changes(one, other)
    return [
        change for part in parts for change in changes(_part(one, part), _part(other, part), part)
    ]


def _part(side: object, part: str) -> object:
    for key in part.split("."):
        side = side.get(key) if isinstance(side, dict) else None
    return side
