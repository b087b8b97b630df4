# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far the stages of a set are."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.curation.quality.retrieval_check import read_check
from vlm_perception.curation.recipe import Recipe, read_recipe
from vlm_perception.curation.sources.listing import tasks as source_tasks
from vlm_perception.curation.sources.source_digest import source_digest
from vlm_perception.curation.stage_folder import (
    QUALITY,
    RAW,
    STAGES,
    Manifest,
    read_manifest,
    why_stale,
)
from vlm_perception.curation.stage_summary import stage_summary
from vlm_perception.curation.tasks import Tasks
from vlm_perception.curation.unfinished import UNFINISHED, begun_stage

CHANGED = "sources have changed since it was made"


def status(folder: Path) -> list[tuple[str, str]]:
    """Each stage with its state in words.

    Raises:
        CurationError: the recipe is wrong, or a stage damaged.
    """
    recipe = read_recipe(folder)
    return [(stage, _state(folder, stage, recipe)) for stage in STAGES]


def _state(folder: Path, stage: str, recipe: Recipe) -> str:
    manifest = read_manifest(folder, stage)
    if manifest is not None:
        why = why_stale(folder, stage, manifest, recipe)
        if not why and sources_changed(folder.resolve(), stage, manifest, recipe):
            why = CHANGED
        if why:
            return f"stale: {why}; --redo {stage} makes it again"
        return stage_summary(manifest) + (_checked(folder) if stage == QUALITY else "")
    unfinished = folder / UNFINISHED
    tasks = Tasks(unfinished)
    if begun_stage(folder) != stage or tasks.count is None:
        return "absent"
    return f"unfinished: {tasks.count - len(tasks.open_ones())} of {tasks.count} tasks are done"


def _checked(folder: Path) -> str:
    """What the retrieval check says of a set; empty where there was none."""
    found = read_check(folder)
    if found is None:
        return ""
    return f"; {found.told}" + ("; failed: re-clean the dataset" if found.passed is False else "")


def sources_changed(folder: Path, stage: str, manifest: Manifest, recipe: Recipe) -> bool:
    """Whether the sources of a complete stage hold something else now."""
    if stage != RAW or not manifest.sources:
        return False
    try:
        return source_digest(source_tasks(folder, recipe)) != manifest.sources
    # Sources that are gone, or cannot be listed, have nothing that could be taken in.
    except (VlmPerceptionError, OSError):
        return False
