# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A run of `vlm-perception distil`: its folder, and its parts one after the other.

Each part is a folder within that of the run which is complete or absent, and is not made twice.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from vlm_perception.common.recipe_changes import changes
from vlm_perception.outputs.own import own_folder
from vlm_perception.training.distillation.language import part as language
from vlm_perception.training.distillation.language import sources
from vlm_perception.training.distillation.parts import Part, Run
from vlm_perception.training.distillation.quantization import part as quantization
from vlm_perception.training.distillation.recipe import DistillationError, Recipe, read_recipe
from vlm_perception.training.distillation.student import train as student
from vlm_perception.training.distillation.teacher import make as teacher
from vlm_perception.training.processes import Processes

VERB = "distil"
BEGUN = "recipe.json"
"""The recipe that a run has begun with."""
HOME = "recipe_folder"
"""The folder that the paths in it are relative to."""
_UNFINISHED = ".unfinished"


PARTS: tuple[Part, ...] = (
    Part("teacher", teacher.make),
    Part("student", student.make, student.check, together=True),
    Part(language.NAME, language.make, sources.check),
    Part(quantization.NAME, quantization.make),
)


def distil(file: Path, out: Path, only: str | None = None, seed: int | None = None) -> list[Path]:
    """Make the parts that a recipe asks for and that are missing.

    Args:
        file: the recipe.
        out: takes the results.
        only: one part, where not all are wanted.
        seed: in place of the recipe's.

    Returns:
        The folders of the parts.

    Raises:
        DistillationError: the recipe is wrong, or another one than the run has begun with.
        OutputError: `out` is another's, or in use.
    """
    recipe = read_recipe(file)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    asked = [part for part in PARTS if getattr(recipe, part.name) is not None]
    chosen = [part for part in asked if only in (None, part.name)]
    if not chosen:
        has = ", ".join(part.name for part in asked) or "none"
        known = ", ".join(part.name for part in PARTS)
        raise DistillationError(
            f"{file} has no section {only or 'that is a part'}: of {known} it has {has}"
        )
    processes = Processes()
    with own_folder(out, VERB, [file]) if processes.first else nullcontext(out) as folder:
        run = Run(recipe, file.parent, folder)
        if processes.first:
            _begin(run, file)
            for part in chosen:
                part.check(run)
        for part in chosen:
            processes.wait()
            if run.done(part.name) is None:
                _make(part, run, processes)
        return [folder / part.name for part in chosen]


def _make(part: Part, run: Run, processes: Processes) -> None:
    """Make a part, in all processes or in the first, and put it into place."""
    work = run.out / f"{part.name}{_UNFINISHED}"
    work.mkdir(exist_ok=True)
    # None may find the finished part where another still looks for it.
    processes.wait()
    if part.together or processes.first:
        part.make(run, work)
    processes.wait()
    if processes.first:
        work.rename(run.out / part.name)


def _begin(run: Run, file: Path) -> None:
    """Note the recipe of a new run; of one that goes on, compare it."""
    begun = run.out / BEGUN
    now = run.recipe.model_dump_json(indent=1)
    (run.out / HOME).write_text(f"{run.home.resolve()}\n")
    if not begun.exists():
        begun.write_text(now)
        return
    before = Recipe.model_validate_json(begun.read_bytes())
    found = changes(before.model_dump(mode="json"), run.recipe.model_dump(mode="json"))
    if found:
        raise DistillationError(
            f"{file} is not the recipe that {run.out} was begun with: {'; '.join(found)}; give "
            "another --out, or undo the change"
        )
