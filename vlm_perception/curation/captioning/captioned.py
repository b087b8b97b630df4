# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""02_captioned: each image has a caption in each language of the recipe, or is listed as failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vlm_perception.curation.captioning.captioner import (
    Caption,
    Captioner,
    CaptionerDownError,
    Failure,
    open_captioner,
)
from vlm_perception.curation.recipe import Captions, CurationError, Recipe
from vlm_perception.curation.stage_folder import CAPTIONED, before
from vlm_perception.curation.step import RECORDS_PER_TASK, Finish, kept_in
from vlm_perception.curation.tasks import Position, Record

IMAGES_PER_TASK, IMAGES_PER_SLOT = 16, 8
"""At least. A task's last images leave slots idle, so it has several for each."""
NO_CAPTIONER = "the recipe names no captioner"


def caption_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Pieces of what the stage before has kept; see `step.Step`."""
    captions, by, size = recipe.captions, "", RECORDS_PER_TASK
    captioner = open_captioner(captions, folder) if captions else None
    if captioner is not None:
        by, size = captioner.by, max(IMAGES_PER_TASK, IMAGES_PER_SLOT * captioner.slots)
    known = captions.model_dump(mode="json") if captions else None
    for records in kept_in(folder, before(CAPTIONED)):
        for begin in range(0, len(records), size):
            some = records[begin : begin + size]
            yield {"folder": str(folder), "records": some, "captions": known, "by": by}


def do_caption(task: dict[str, Any], folder: Path, position: Position) -> Iterator[Any]:
    """Caption the images of a task that need it; see `tasks.Work`."""
    begin = position or 0
    rest = task["records"][begin:]
    captions, captioner = None, None
    if task["captions"] is not None:
        captions = Captions.model_validate_json(json.dumps(task["captions"]))
        captioner = open_captioner(captions, Path(task["folder"]))
    if captioner is not None and captioner.by != task["by"]:
        raise CurationError(
            f"the captioner is another model than when {CAPTIONED} was begun ({task['by']} "
            f"then, {captioner.by} now): take that one again, or remove {folder} to begin anew"
        )
    done: Iterable[Record]
    if captions is None:
        done = ({**record, "status": "kept"} for record in rest)
    elif captioner is None:
        done = (_without_captioner(record, captions) for record in rest)
    else:
        done = _captioned(rest, captions, captioner)
    for place, record in enumerate(done, begin + 1):
        yield record, place


def is_asked_again(record: Record) -> bool:
    """Whether a later run asks for an image again, until the stage is complete."""
    return bool(record.get("again"))


def require_captioner(records: Iterable[Record], end: Finish) -> Iterable[Record]:
    """The records, unless there are images that found no captioner.

    Raises:
        CaptionerDownError: there are some.
    """
    silent, absent, why = 0, 0, ""
    for record in records:
        silent += bool(record.get("again"))
        if record.get("absent"):
            absent, why = absent + 1, record["reason"]
    if absent:
        raise CaptionerDownError(
            f"{absent} images got no answer ({why}); run again when the captioner answers: what it "
            "has answered is kept"
        )
    if silent:
        end.notes.append(
            f"{silent} images got no answer in the end; --redo {CAPTIONED} asks for them once more"
        )
    return records


def missing_languages(record: Record, languages: tuple[str, ...]) -> list[str]:
    """The languages in which an image has no caption; `en-GB` counts as `en`, too."""
    there = [each["language"].lower() for each in record.get("captions", [])]
    return [
        tag
        for tag in languages
        if not any(each == tag.lower() or each.startswith(f"{tag.lower()}-") for each in there)
    ]


def _captioned(records: list[Record], captions: Captions, captioner: Captioner) -> Iterator[Record]:
    """The records in their order, several being asked for at a time."""
    captioner.begin()
    with ThreadPoolExecutor(captioner.slots) as pool:
        try:
            yield from pool.map(lambda record: _one(record, captions, captioner), records)
        except BaseException:
            captioner.interrupt()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one(record: Record, captions: Captions, captioner: Captioner) -> Record:
    texts, failures, written = list(record.get("captions", [])), list[Failure](), list[str]()
    missing = missing_languages(record, captions.languages)
    if not missing:
        return {**record, "status": "kept"}
    for language in missing:
        came = captioner.try_caption(record, language)
        if isinstance(came, Caption):
            texts.append(came.record())
            written.append(language)
            continue
        failures += came
        if came[-1].absent:
            break
    record = {**record, "captions": texts, "written": written}
    return _failed(record, failures) if failures else {**record, "status": "kept"}


def _without_captioner(record: Record, captions: Captions) -> Record:
    missing = missing_languages(record, captions.languages)
    if not missing:
        return {**record, "status": "kept"}
    reason = f"it has no caption in {', '.join(missing)}, and {NO_CAPTIONER}"
    fault = {"reason": reason, "fault": NO_CAPTIONER, "answers": []}
    return {**record, "status": "failed", **fault}


def _failed(record: Record, failures: list[Failure]) -> Record:
    last = failures[-1]
    asked = f"{len([each for each in failures if each.language == last.language])} tries"
    failed = {
        **record,
        "status": "failed",
        "reason": f"no caption in {last.language} after {asked}: {last.reason}",
        "fault": last.kind,
        "answers": [each.record() for each in failures],
    }
    if any(each.unanswered for each in last_of_each(failures)):
        failed["again"] = True
    if last.absent:
        failed["absent"] = True
    return failed


def last_of_each(failures: list[Failure]) -> Iterable[Failure]:
    """The last failure of each language."""
    return {each.language: each for each in failures}.values()
