# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The stored captions and answers of a teacher: JSON lines, one a view, whole shards alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import Progress

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.common.recipe_changes import changes
from vlm_perception.outputs.console import say
from vlm_perception.outputs.durable import write_bytes
from vlm_perception.training.distillation.examples import Images, View, draw_views
from vlm_perception.training.distillation.recipe import DistillationError, Recipe
from vlm_perception.training.distillation.teacher.language import Speaker, Words

MANIFEST = "language.json"
VERSION = 1
VIEWS_PER_FILE = 64


class _Line(BaseModel):
    """Of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: int
    view: int
    caption: str
    ended: bool
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    answers: dict[str, tuple[float, ...]]

    def words(self) -> Words:
        """What is said of the view."""
        return Words(self.caption, self.ended, self.tokens, self.log_probabilities, self.answers)


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
    console, said = Console(stderr=True), []
    with Progress(console=console) as progress:
        bar = progress.add_task("captions and answers", total=len(views))
        for first in range(0, len(views), VIEWS_PER_FILE):
            some, target = views[first : first + VIEWS_PER_FILE], folder / f"{first:09d}.jsonl"
            if target.exists():
                progress.advance(bar, len(some))
                continue
            rows = []
            for place, words in _asked(model, images, some):
                rows.append({"image": place[0], "view": place[1], **asdict(words)})
                said.append(words)
                progress.advance(bar)
            write_bytes(target, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    if said:
        whole = sum(words.ended and bool(words.caption) for words in said)
        answers = [bool(each) for words in said for each in words.answers.values()]
        say(
            console,
            f"teacher: of {len(said)} views {whole} have a whole caption; of {len(answers)} "
            f"questions {sum(answers)} have an answer",
        )


def _asked(
    model: Speaker, images: Images, views: Sequence[tuple[int, int, View]]
) -> Iterator[tuple[tuple[int, int], Words]]:
    """What is said of views, in their order; so many at once as the model answers."""

    def ask(place: tuple[int, int, View]) -> tuple[tuple[int, int], Words]:
        index, number, view = place
        try:
            return (index, number), model.look(images.picture(index, view))
        except DistillationError as error:
            raise DistillationError(f"{error} for {images.name(index)}") from error

    pool = ThreadPoolExecutor(model.slots, thread_name_prefix="teacher")
    try:
        yield from pool.map(ask, views)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read_words(folder: Path, images: Images) -> dict[tuple[int, int], Words]:
    """What is said of each view, by the number of its image and its own.

    Args:
        folder: as `store_words` has filled it.
        images: that it is about.

    Raises:
        DistillationError: there is nothing, or it is damaged, or about other images.
    """
    if not (folder / MANIFEST).exists():
        raise DistillationError(f"{folder} holds no captions and answers of a teacher")
    manifest = _manifest(folder)
    known: dict[tuple[int, int], Words] = {}
    for file in sorted(folder.glob("*.jsonl")):
        try:
            lines = [_Line.model_validate_json(line) for line in file.read_bytes().splitlines()]
        except (OSError, ValidationError) as error:
            why = describe_errors(error) if isinstance(error, ValidationError) else error
            raise DistillationError(
                f"{file} cannot be used: {why}; remove it and the part `teacher` of the run, and "
                "it is made again"
            ) from error
        known |= {(line.image, line.view): line.words() for line in lines}
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
    found = changes(_manifest(folder), now)
    if found:
        raise DistillationError(
            f"{folder} holds captions and answers that were made otherwise: {'; '.join(found)}; "
            "name another `teacher.store`, or remove it"
        )


def _manifest(folder: Path) -> dict[str, Any]:
    """What the words in a folder were made of."""
    file = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DistillationError(f"{file} cannot be used: {error}") from error
    return content
