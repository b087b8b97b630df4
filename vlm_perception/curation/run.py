# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a set, stage by stage; what is complete is never made again, unless it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vlm_perception.common.errors import RunError
from vlm_perception.curation.captioning.captioned import (
    caption_tasks,
    do_caption,
    is_asked_again,
    require_captioner,
)
from vlm_perception.curation.engine import Engine
from vlm_perception.curation.filtering.filtered import do_filter, filter_tasks
from vlm_perception.curation.filtering.kept_once import without_near_duplicates
from vlm_perception.curation.final.final import final_tasks, with_indexes
from vlm_perception.curation.final.shard import do_shard
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.progress import StageProgress
from vlm_perception.curation.quality.checked import check_retrieval, check_tasks, do_check
from vlm_perception.curation.quality.findings import alignment
from vlm_perception.curation.quality.retrieval_check import read_check, require_passed
from vlm_perception.curation.recipe import CurationError, Recipe, read_recipe
from vlm_perception.curation.sources.listing import tasks as source_tasks
from vlm_perception.curation.sources.raw import do_raw
from vlm_perception.curation.sources.source_digest import digested
from vlm_perception.curation.stage_folder import (
    CAPTIONED,
    FAILED,
    FILTERED,
    FINAL,
    QUALITY,
    RAW,
    STAGES,
    Inputs,
    Manifest,
    before,
    input_digest,
    put_in_place,
    read_manifest,
    require_own_files,
    why_stale,
    write_stage,
)
from vlm_perception.curation.stage_summary import stage_summary
from vlm_perception.curation.status import CHANGED, sources_changed
from vlm_perception.curation.step import Finish, Step
from vlm_perception.curation.tasks import Record, Tasks
from vlm_perception.curation.times import keep_time
from vlm_perception.curation.unfinished import (
    MADE,
    SOURCES,
    STAGE,
    UNFINISHED,
    begun_folder,
    begun_stage,
    end,
    end_stage,
    interrupted_again,
    put_back,
    read_json,
    remove_unfinished,
)
from vlm_perception.datasets.final_set import RECIPE
from vlm_perception.outputs import work
from vlm_perception.outputs.console import say
from vlm_perception.outputs.durable import PART_SUFFIX, write_bytes

STEPS: dict[str, Step] = {
    RAW: Step(source_tasks, do_raw),
    FILTERED: Step(filter_tasks, do_filter, without_near_duplicates),
    CAPTIONED: Step(caption_tasks, do_caption, require_captioner, is_asked_again),
    QUALITY: Step(check_tasks, do_check, check_retrieval, is_asked_again),
    FINAL: Step(final_tasks, do_shard, with_indexes),
}


@dataclass(frozen=True)
class Options:
    """What is asked of a run."""

    to: str = STAGES[-1]
    redo: str | None = None
    engine: Engine = field(default_factory=Engine)


def run(folder: Path, options: Options, console: Console) -> None:
    """Make the stages that are missing.

    Raises:
        CurationError: the recipe is wrong, a source is missing, or a stage is stale and was not
            asked for again.
        OutputError: another run is at work in the folder.
        OSError: the disk is full, or cannot be written.
    """
    recipe = read_recipe(folder)
    handle = work.taken(folder, "choose another folder")
    try:
        put_back(folder)
        again = _made_again(folder.resolve(), recipe, options.redo)
        with options.engine:
            for stage in STAGES[: STAGES.index(options.to) + 1]:
                _make(folder.resolve(), stage, recipe, stage in again, options.engine, console)
                if stage == QUALITY:
                    _tell_quality(folder, console)
        end(folder)
    finally:
        os.close(handle)


def _tell_quality(folder: Path, console: Console) -> None:
    """Say what the checks have found, and go no further where the set has failed that of all."""
    for line in alignment(folder / QUALITY):
        say(console, line)
    require_passed(folder)
    found = read_check(folder)
    if found is not None:
        say(console, found.told)


def _made_again(folder: Path, recipe: Recipe, redo: str | None) -> Sequence[str]:
    """The stages that are made again though they are complete: as asked for now, or before."""
    asked = [each for each in (redo, interrupted_again(folder, recipe)) if each is not None]
    return STAGES[min(map(STAGES.index, asked), default=len(STAGES)) :]


def _make(
    folder: Path, stage: str, recipe: Recipe, again: bool, engine: Engine, console: Console
) -> None:
    old = read_manifest(folder, stage)
    if old is not None:
        why = why_stale(folder, stage, old, recipe)
        if not why and not again:
            if begun_stage(folder) == stage:
                remove_unfinished(folder / UNFINISHED)
            say(console, f"{stage}: complete, {stage_summary(old)}")
            if sources_changed(folder, stage, old, recipe):
                say(console, f"{stage}: its {CHANGED}; --redo {stage} takes that in")
            _require_kept(folder, old)
            return
        if why and not again:
            raise CurationError(
                f"{stage} was made by another recipe ({why}): undo the change, or make it again "
                f"with --redo {stage}"
            )
        require_own_files(folder, old)
    unfinished = begun_folder(folder, stage, recipe, again=old is not None)
    tasks = Tasks(unfinished)
    with StageProgress(stage, console) as bar:
        count = tasks.write(_listed(folder, stage, recipe, unfinished))
        if (is_open := STEPS[stage].again) is not None:
            tasks.open_again(is_open)
        missing = tasks.open_ones()
        bar.begin(count, count - len(missing))
        for counts in engine.done(partial(_do, unfinished, stage), missing):
            bar.advance(counts)
        manifest = _finish(folder, stage, recipe, tasks, bar)
    if stage == RAW and not manifest.kept:
        why = _first_fault(unfinished / STAGE)
        remove_unfinished(unfinished)
        raise CurationError(f"no image of the sources can be used{why}; correct {folder / RECIPE}")
    keep_time(folder, stage, manifest.received, tasks.totals()[1])
    if old is not None:
        # It may have got some while this one was made.
        require_own_files(folder, old)
    write_bytes(unfinished / MADE, json.dumps(manifest.digest).encode())
    put_in_place(unfinished / STAGE, folder / stage)
    end_stage(folder)
    say(console, f"{stage}: {stage_summary(manifest)}")
    if manifest.failed:
        say(console, f"why images failed: {folder / stage / 'failed.jsonl'}")
    _require_kept(folder, manifest)


def _require_kept(folder: Path, manifest: Manifest) -> None:
    """Stop after a stage that has left nothing.

    Raises:
        RunError: it has.
    """
    if not manifest.kept:
        raise RunError(
            f"{manifest.name} has left nothing of {manifest.received} images: correct "
            f"{folder / RECIPE} and make it again with --redo {manifest.name}; "
            f"`vlm-perception curate report {folder}` shows why"
        )


def _first_fault(made: Path) -> str:
    first = next(iter(read_lines(made / FAILED)), None)
    return f": {first['path']}: {first['reason']}" if first else ""


def _listed(folder: Path, stage: str, recipe: Recipe, unfinished: Path) -> Iterator[dict[str, Any]]:
    tasks = STEPS[stage].tasks(folder, recipe)
    if stage != RAW:
        return iter(tasks)
    return digested(
        tasks, lambda digest: write_bytes(unfinished / SOURCES, json.dumps(digest).encode())
    )


def _do(unfinished: Path, stage: str, number: int) -> dict[str, int]:
    return Tasks(unfinished).do(number, STEPS[stage].work)


@dataclass(frozen=True)
class _Numbered:
    """The records of a stage's tasks, each time they are iterated; those of 00_raw get an id."""

    tasks: Tasks
    number: bool

    def __iter__(self) -> Iterator[Record]:
        for identity, record in enumerate(self.tasks.records()):
            yield {"id": identity, **record} if self.number else record


def _finish(folder: Path, stage: str, recipe: Recipe, tasks: Tasks, bar: StageProgress) -> Manifest:
    records: Iterable[Record] = _Numbered(tasks, stage == RAW)
    earlier = read_manifest(folder, before(stage)) if before(stage) else None
    received = earlier.kept if earlier else tasks.totals()[0]
    made = tasks.folder / STAGE
    bar.begin(received, 0, "finishing")
    ending = Finish(folder, made, recipe, received, bar.compared)
    for cut_off in made.rglob(f"*{PART_SUFFIX}"):
        cut_off.unlink()
    sources = str(read_json(tasks.folder / SOURCES)) if stage == RAW else ""
    inputs = Inputs(input_digest(folder, stage), sources, received)
    found = STEPS[stage].finish(records, ending)
    return write_stage(folder, made, stage, recipe, inputs, found, ending.notes)
