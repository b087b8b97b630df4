# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the stages that are complete."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.quality.findings import alignment, pairs_by_language
from vlm_perception.curation.quality.retrieval_check import read_check
from vlm_perception.curation.recipe import CurationError, read_recipe
from vlm_perception.curation.report.copy_table import copy_table
from vlm_perception.curation.report.health import health
from vlm_perception.curation.report.seen import Observer, observer
from vlm_perception.curation.stage_folder import (
    FILTERED,
    KEPT,
    QUALITY,
    RAW,
    REJECTED,
    STAGES,
    Manifest,
    before,
    read_manifest,
    require_whole,
    why_stale,
)
from vlm_perception.curation.stage_summary import stage_summary
from vlm_perception.curation.times import StageTime, read_times

COUNTS = {"name", "received", "kept", "rejected", "failed", "rules", "faults", "written", "notes"}


def figures(folder: Path) -> dict[str, Any]:
    """What `curate report --json` writes.

    Raises:
        CurationError: no stage is complete.
        DamagedError: the lists of one are not as they were written.
        BundleError: the bundle that looks at the images cannot be used.
    """
    times = read_times(folder)
    made = made_stages(folder)
    for each in made:
        require_whole(folder, each.name)
    recipe = read_recipe(folder)
    looks = observer(folder, recipe)
    stages = [_stage(folder, each, times.get(each.name), looks) for each in made]
    filtered = next((each for each in made if each.name == FILTERED), None)
    images = times[RAW].images if RAW in times else 0
    total = StageTime(images=images, cpu_s=sum(each.cpu_s for each in times.values()))
    return {
        "stages": stages,
        "dedup": copy_table(folder, recipe, filtered) if filtered else [],
        "images_per_second_per_core": _rate(total),
        **_quality(folder, [each["name"] for each in stages]),
    }


def _stage(
    folder: Path, manifest: Manifest, time: StageTime | None, looks: Observer | None
) -> dict[str, Any]:
    kept = folder / manifest.name / KEPT
    known = health(read_lines(kept))
    known["seen"] = looks and looks.seen(read_lines(kept), manifest.name)
    return {
        **manifest.model_dump(mode="json", include=COUNTS),
        "rejection_rate": manifest.rejected / manifest.received if manifest.received else 0.0,
        "mean_quality": known.pop("mean_quality"),
        "images_per_second_per_core": _rate(time),
        "health": known,
    }


def _quality(folder: Path, stages: Sequence[str]) -> dict[str, Any]:
    if QUALITY not in stages:
        return {}
    check = read_check(folder)
    records = (read_lines(folder / QUALITY / file) for file in (KEPT, REJECTED))
    return {
        "retrieval_check": check and check.model_dump(exclude={"worst"}),
        "translations": pairs_by_language(chain.from_iterable(records)),
    }


def summary(folder: Path) -> list[str]:
    """A line for each stage that is complete, and for what was found of captions."""
    made = made_stages(folder)
    known = [f"{each.name}: {stage_summary(each)}" for each in made]
    return [*known, *caption_findings(folder, [each.name for each in made]), *stale_stages(folder)]


def caption_findings(folder: Path, stages: Sequence[str]) -> list[str]:
    """Sentences on what 03_quality_checked has found of all captions; none if it is not there."""
    if QUALITY not in stages:
        return []
    check = read_check(folder)
    return [*alignment(folder / QUALITY), *([check.told] if check else [])]


def stale_stages(folder: Path) -> list[str]:
    """A sentence for each stage that is left out, as it or one before it is stale."""
    recipe, sentences = read_recipe(folder), list[str]()
    for stage in STAGES:
        manifest = read_manifest(folder, stage)
        why = why_stale(folder, stage, manifest, recipe) if manifest else ""
        if manifest and (why or sentences):
            why = why or f"{before(stage)} is stale"
            sentences.append(f"{stage} is left out, it is stale ({why}); --redo {stage} makes it")
    return sentences


def made_stages(folder: Path) -> list[Manifest]:
    """The stages that are complete and not stale, which are the first ones.

    Raises:
        CurationError: none is.
    """
    stale = stale_stages(folder)
    found = [read_manifest(folder, stage) for stage in STAGES]
    made = [each for each in found if each is not None]
    made = made[: len(made) - len(stale)]
    if not made and stale:
        raise CurationError(stale[0])
    if not made:
        raise CurationError(
            f"{folder} has no complete stage; `vlm-perception curate run {folder}` makes them"
        )
    return made


def _rate(time: StageTime | None) -> float | None:
    return round(time.images / time.cpu_s, 1) if time and time.cpu_s else None
