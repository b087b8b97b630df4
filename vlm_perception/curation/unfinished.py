# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of the stage that is being made, which an interrupted run goes on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import vlm_perception
from vlm_perception.curation.durable import PART, write_bytes
from vlm_perception.curation.recipe import CurationError, Recipe
from vlm_perception.curation.sources.key_frames import PLACES
from vlm_perception.curation.stage_folder import input_digest, read_manifest, recipe_part
from vlm_perception.curation.tasks import LISTED
from vlm_perception.evaluation.code_digest import code_digest

UNFINISHED = ".unfinished"
BEGUN, MADE, SOURCES = "begun.json", "made.json", "sources.json"
OWN = {BEGUN, MADE, SOURCES, LISTED, "tasks", "parts", "stage", PLACES}
"""What the folder of an unfinished stage holds."""


def begun_folder(folder: Path, stage: str, recipe: Recipe) -> Path:
    """The folder of what an interrupted run of this stage, by this recipe, has left, or a new one.

    There is one such folder: a stage is made only when those before it are complete.
    """
    unfinished = folder / UNFINISHED
    begun = {
        "stage": stage,
        "recipe": recipe_part(folder, stage, recipe),
        "input": input_digest(folder, stage),
        # What another version has begun is not finished by this one.
        "program": code_digest(vlm_perception),
    }
    if read_json(unfinished / BEGUN) != begun or _is_moved(folder, stage, unfinished):
        remove_unfinished(unfinished)
        unfinished.mkdir()
        write_bytes(unfinished / BEGUN, json.dumps(begun).encode())
    (unfinished / "stage").mkdir(exist_ok=True)
    return unfinished


def _is_moved(folder: Path, stage: str, unfinished: Path) -> bool:
    """Whether what an interrupted run has made is in its place: only the rest was left."""
    made, there = read_json(unfinished / MADE), read_manifest(folder, stage)
    return made is not None and there is not None and made == there.digest


def remove_unfinished(unfinished: Path) -> None:
    """Remove the folder; without its first file, the rest counts for nothing.

    Raises:
        CurationError: it holds what this program has not made.
    """
    found = unfinished.iterdir() if unfinished.is_dir() else ()
    foreign = sorted(each.name for each in found if each.name not in OWN and each.suffix != PART)
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
