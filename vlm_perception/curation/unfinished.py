# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of the stage that is being made, and what an interrupted run has left there.

There is one: a stage is made only when those before it are complete.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import vlm_perception
from vlm_perception.curation.recipe import CurationError, Recipe
from vlm_perception.curation.sources.key_frames import PLACES
from vlm_perception.curation.stage_folder import (
    DEPENDS_ON,
    STAGES,
    after,
    input_digest,
    read_manifest,
    recipe_part,
)
from vlm_perception.curation.tasks import LISTED
from vlm_perception.evaluation.code_digest import code_digest
from vlm_perception.outputs.durable import PART_SUFFIX, write_bytes
from vlm_perception.outputs.swap import OLD

UNFINISHED = ".unfinished"
BEGUN, MADE, SOURCES = "begun.json", "made.json", "sources.json"
STAGE = "stage"
"""The stage itself, before it is in its place."""
_OWN = {BEGUN, MADE, SOURCES, LISTED, "tasks", "parts", STAGE, OLD, PLACES}
_PROGRAM = "program"


def begun_folder(folder: Path, stage: str, recipe: Recipe, again: bool) -> Path:
    """The folder of what an interrupted run of a stage, by this recipe, has left, or a new one.

    Args:
        folder: of the whole set.
        stage: its name.
        recipe: it is made by.
        again: whether there is a complete one, which it takes the place of.

    Raises:
        CurationError: the folder holds what this program has not made.
        OSError: it cannot be written.
    """
    unfinished = folder / UNFINISHED
    begun = {
        **_asked(folder, stage, recipe),
        "again": again,
        # What another version has begun is not finished by this one.
        _PROGRAM: code_digest(vlm_perception),
    }
    if read_json(unfinished / BEGUN) != begun or _is_moved(folder, stage):
        remove_unfinished(unfinished)
        unfinished.mkdir()
        write_bytes(unfinished / BEGUN, json.dumps(begun).encode())
    (unfinished / STAGE).mkdir(exist_ok=True)
    return unfinished


def begun_stage(folder: Path) -> str | None:
    """The stage that was begun and did not end; None: there is none."""
    begun = read_json(folder / UNFINISHED / BEGUN)
    stage = begun.get("stage") if isinstance(begun, dict) else None
    return stage if stage in STAGES else None


def interrupted_again(folder: Path, recipe: Recipe) -> str | None:
    """The stage at which making complete ones again was interrupted; None: it was not.

    What was asked for by another recipe, or of another stage before, counts no more.
    """
    begun, stage = read_json(folder / UNFINISHED / BEGUN), begun_stage(folder)
    if stage is None or not begun.pop("again", False):
        return None
    begun.pop(_PROGRAM, None)
    if begun != _asked(folder, stage, recipe):
        return None
    return after(stage) if _is_moved(folder, stage) else stage


def end_stage(folder: Path) -> None:
    """Remove what a stage was made from; that it was begun is kept until the next one is."""
    for each in (folder / UNFINISHED).iterdir():
        if each.is_dir() and each.name in _OWN:
            shutil.rmtree(each)


def end(folder: Path) -> None:
    """Remove the rest where all that was begun is in its place."""
    stage = begun_stage(folder)
    if stage is not None and _is_moved(folder, stage):
        remove_unfinished(folder / UNFINISHED)


def put_back(folder: Path) -> None:
    """Put a complete stage back that was moved aside, and whose successor did not take its place.

    Raises:
        OSError: it cannot be moved.
    """
    old, stage = folder / UNFINISHED / OLD, begun_stage(folder)
    if stage is not None and old.is_dir() and not (folder / stage).exists():
        old.rename(folder / stage)


def remove_unfinished(unfinished: Path) -> None:
    """Remove the folder; without its first file, the rest counts for nothing.

    Raises:
        CurationError: it holds what this program has not made.
    """
    found = unfinished.iterdir() if unfinished.is_dir() else ()
    foreign = sorted(
        each.name for each in found if each.name not in _OWN and each.suffix != PART_SUFFIX
    )
    if foreign:
        raise CurationError(
            f"{unfinished} is removed when a stage is begun, and holds {foreign[0]}, which this "
            "program has not made; move that away"
        )
    (unfinished / BEGUN).unlink(missing_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)


def read_json(file: Path) -> Any:
    """The content of one of our small files; None: it is not there."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def _asked(folder: Path, stage: str, recipe: Recipe) -> dict[str, Any]:
    return {
        "stage": stage,
        "recipe": recipe_part(folder, stage, recipe),
        # Tasks hold what a complete stage does not depend on, too, such as who may ask a server.
        "settings": recipe.model_dump(mode="json", include=set(DEPENDS_ON[stage])),
        "input": input_digest(folder, stage),
    }


def _is_moved(folder: Path, stage: str) -> bool:
    """Whether what an interrupted run has made is in its place: only the rest was left."""
    made, there = read_json(folder / UNFINISHED / MADE), read_manifest(folder, stage)
    return made is not None and there is not None and made == there.digest
