# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""02_captioned: each image has a caption in each language of the recipe, or is listed as failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from vlm_perception.curation.step import kept_in
from vlm_perception.curation.tasks import Position, Record

IMAGES_PER_TASK = 128
"""More than `captioner.FAILURES`: a captioner that is down from the beginning ends no task."""
NO_CAPTIONER = "the recipe names no captioner"


def caption_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Pieces of what the stage before has kept; see `step.Step`."""
    captions, by = recipe.captions, ""
    if captions is not None:
        captioner = open_captioner(captions, folder)
        by = captioner.by if captioner else ""
    known = captions.model_dump(mode="json") if captions else None
    for records in kept_in(folder, before(CAPTIONED)):
        for begin in range(0, len(records), IMAGES_PER_TASK):
            some = records[begin : begin + IMAGES_PER_TASK]
            yield {"folder": str(folder), "records": some, "captions": known, "by": by}


def do_caption(task: dict[str, Any], folder: Path, position: Position) -> Iterator[Any]:
    """Caption the images of a task that need it; see `tasks.Work`.

    What was answered is in the journal, so nothing of a task is given before all of it is known.
    """
    records, begin = task["records"], position or 0
    if task["captions"] is None:
        done = [{**record, "status": "kept"} for record in records]
    else:
        captions = Captions.model_validate_json(json.dumps(task["captions"]))
        captioner = open_captioner(captions, Path(task["folder"]))
        if captioner is not None and captioner.by != task["by"]:
            raise CurationError(
                f"the captioner is another model than when {CAPTIONED} was begun ({task['by']} "
                f"then, {captioner.by} now): take that one again, or remove {folder} to begin anew"
            )
        done = _captioned(records, captions, captioner)
    for place, record in enumerate(done[begin:], begin + 1):
        yield record, place


def missing_languages(record: Record, languages: tuple[str, ...]) -> list[str]:
    """The languages in which an image has no caption; `en-GB` counts as `en`, too."""
    there = [each["language"].lower() for each in record.get("captions", [])]
    return [
        tag
        for tag in languages
        if not any(each == tag.lower() or each.startswith(f"{tag.lower()}-") for each in there)
    ]


def _captioned(
    records: list[Record], captions: Captions, captioner: Captioner | None
) -> list[Record]:
    done: dict[int, Record] = {}
    open_ones: list[int] = []
    for place, record in enumerate(records):
        missing = missing_languages(record, captions.languages)
        if not missing:
            done[place] = {**record, "status": "kept"}
        elif captioner is None:
            reason = f"it has no caption in {', '.join(missing)}, and {NO_CAPTIONER}"
            fault = {"reason": reason, "fault": NO_CAPTIONER, "answers": []}
            done[place] = {**record, "status": "failed", **fault}
        else:
            open_ones.append(place)
    if captioner is not None:
        done |= _asked(records, open_ones, captions, captioner)
    return [done[place] for place in range(len(records))]


def _asked(
    records: list[Record], places: list[int], captions: Captions, captioner: Captioner
) -> dict[int, Record]:
    """Ask for what is missing; those for whom no captioner was there a second time."""

    def ask(place: int) -> Record | str:
        return _one(records[place], captions, captioner)

    done: dict[int, Record] = {}
    absent: list[str] = []
    captioner.begin()
    with ThreadPoolExecutor(captioner.slots) as pool:
        try:
            for _ in range(2):
                came = dict(zip(places, pool.map(ask, places), strict=True))
                done |= {place: each for place, each in came.items() if isinstance(each, dict)}
                absent = [each for each in came.values() if isinstance(each, str)]
                places = [place for place in places if place not in done]
        except BaseException:
            captioner.interrupt()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if places:
        raise CaptionerDownError(
            f"{len(places)} images got no caption ({absent[-1]}); run again when the captioner "
            "answers: what it has answered is kept"
        )
    return done


def _one(record: Record, captions: Captions, captioner: Captioner) -> Record | str:
    """What becomes of an image; a text: no captioner was there, and why."""
    texts, failures = list(record.get("captions", [])), list[Failure]()
    written: list[str] = []
    for language in missing_languages(record, captions.languages):
        came = captioner.try_caption(record, language)
        if isinstance(came, Caption):
            texts.append(came.record())
            written.append(language)
        elif came[-1].absent:
            return came[-1].reason
        else:
            failures += came
    record = {**record, "captions": texts, "written": written}
    if not failures:
        return {**record, "status": "kept"}
    last = failures[-1]
    return {
        **record,
        "status": "failed",
        "reason": f"no caption in {last.language} after {last.attempt} answers: {last.reason}"
        if last.answer is not None
        else f"no caption in {last.language}: {last.reason}",
        "fault": last.kind,
        "answers": [each.record() for each in failures],
    }
