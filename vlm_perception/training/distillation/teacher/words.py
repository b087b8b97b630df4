# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The stored captions and answers of a teacher: JSON lines, one a view, whole shards alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from vlm_perception.common.recipe_changes import changes
from vlm_perception.outputs.durable import write_bytes
from vlm_perception.training.distillation.examples import Images, draw_views
from vlm_perception.training.distillation.recipe import DistillationError, Recipe
from vlm_perception.training.distillation.teacher.language import Speaker, Words

MANIFEST = "language.json"
VERSION = 1
VIEWS_PER_FILE = 64


def store_words(recipe: Recipe, images: Images, model: Speaker, folder: Path) -> None:
    """Ask about every view that is not stored yet.

    Args:
        recipe: with a teacher.
        images: that are looked at.
        model: is asked.
        folder: takes the answers.

    Raises:
        DistillationError: the folder holds answers to something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _begin(recipe, images, model, folder)
    views = [
        (index, number, view)
        for index in range(len(images))
        for number, view in enumerate(draw_views(0, index, recipe.views))
    ]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("captions and answers", total=len(views))
        for first in range(0, len(views), VIEWS_PER_FILE):
            some, target = views[first : first + VIEWS_PER_FILE], folder / f"{first:09d}.jsonl"
            if target.exists():
                progress.advance(bar, len(some))
                continue
            rows = []
            for index, number, view in some:
                try:
                    words = model.look(images.picture(index, view))
                except DistillationError as error:
                    raise DistillationError(f"{error} for {images.name(index)}") from error
                rows.append({"image": index, "view": number, **asdict(words)})
                progress.advance(bar)
            write_bytes(target, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def read_words(folder: Path, images: Images) -> dict[tuple[int, int], Words]:
    """What is said of each view, by the number of its image and its own.

    Args:
        folder: as `store_words` has filled it.
        images: that it is about.

    Raises:
        DistillationError: there is nothing, or it is damaged, or about other images.
    """
    known: dict[tuple[int, int], Words] = {}
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                place = row.pop("image"), row.pop("view")
                known[place] = Words(**row)
    except FileNotFoundError as error:
        raise DistillationError(f"{folder} holds no captions and answers of a teacher") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DistillationError(
            f"the captions and answers in {folder} cannot be used ({error}); remove that folder "
            "and the part `teacher` of the run, and they are made again"
        ) from error
    if manifest["images"] != images.digest:
        raise DistillationError(
            f"{folder} is about other images than the recipe's; name another `teacher.store`"
        )
    if len(known) != len(images) * manifest["views"]["count"]:
        raise DistillationError(
            f"{folder} is not complete; remove the part `teacher` of the run, and `vlm-perception "
            "distil` with the same recipe goes on"
        )
    return known


def _begin(recipe: Recipe, images: Images, model: Speaker, folder: Path) -> None:
    teacher = recipe.teacher
    assert teacher is not None
    now = {
        "version": VERSION,
        "images": images.digest,
        "teacher": model.by,
        "views": recipe.views.model_dump(mode="json"),
        "caption": teacher.caption,
        "questions": [each.model_dump(mode="json") for each in teacher.questions],
    }
    file = folder / MANIFEST
    if not file.exists():
        write_bytes(file, json.dumps(now, indent=1).encode())
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DistillationError(f"{file} cannot be used: {error}") from error
    found = changes(before, now)
    if found:
        raise DistillationError(
            f"{folder} holds captions and answers that were made otherwise: {'; '.join(found)}; "
            "name another `teacher.store`, or remove it"
        )
