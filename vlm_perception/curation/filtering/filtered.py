# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""01_filtered: what is too small, too blurred, too dark or bright, or shown by another image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.image_figures import ImageFigures, image_figures
from vlm_perception.curation.filtering.near_duplicates import find_near_duplicates
from vlm_perception.curation.image_files import decode, read_file
from vlm_perception.curation.recipe import Filter, Recipe
from vlm_perception.curation.stage_folder import RAW
from vlm_perception.curation.step import Finish, kept_in
from vlm_perception.curation.tasks import Position, Record
from vlm_perception.media.image_errors import ImageError

UNKNOWN_AGE = np.iinfo(np.int64).max


def filter_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Pieces of what 00_raw has kept; see `step.Step`."""
    rules = recipe.filter.model_dump()
    for records in kept_in(folder, RAW):
        yield {"folder": str(folder), "records": records, "rules": rules}


def do_filter(task: dict[str, Any], folder: Path, position: Position) -> Iterator[Any]:
    """Judge each image of a task by itself; see `tasks.Work`."""
    rules, begin = Filter.model_validate(task["rules"]), position or 0
    for place, record in enumerate(task["records"][begin:], begin + 1):
        yield _judged(Path(task["folder"]), record, rules), place


def _judged(folder: Path, record: Record, rules: Filter) -> Record:
    record = {**record, "status": "kept"}
    side = min(record["width"], record["height"])
    if side < rules.min_side:
        return _rejected(record, "min_side", side)
    try:
        figures = image_figures(decode(read_file(folder / record["file"])))
    except ImageError as error:
        return {**record, "status": "failed", "reason": str(error)}
    record = {
        **record,
        "phash": f"{figures.phash:016x}",
        "sharpness": round(figures.sharpness, 3),
        "brightness": round(figures.brightness, 3),
    }
    rule = _broken_rule(figures, rules)
    return _rejected(record, rule, record[rule.split("_")[1]]) if rule else record


def _broken_rule(figures: ImageFigures, rules: Filter) -> str:
    if rules.min_sharpness is not None and figures.sharpness < rules.min_sharpness:
        return "min_sharpness"
    if rules.min_brightness is not None and figures.brightness < rules.min_brightness:
        return "min_brightness"
    if rules.max_brightness is not None and figures.brightness > rules.max_brightness:
        return "max_brightness"
    return ""


def _rejected(record: Record, rule: str, figure: float) -> Record:
    return {**record, "status": "rejected", "rule": rule, "figure": figure}


def without_near_duplicates(records: Iterable[Record], end: Finish) -> Iterable[Record]:
    """The records; near-duplicates among the kept ones become rejected.

    The sharpest image stays, of equally sharp ones the oldest, then that with the lowest digest.

    Args:
        records: iterated twice.
        end: of the stage.
    """
    distance = end.recipe.filter.phash_distance
    if distance is None:
        yield from records
        return
    hashes, order, identities = _in_order(records, end.received)
    stays, distances = find_near_duplicates(hashes[order], distance, end.progress)
    of_place = np.empty(len(order), np.int64)
    of_place[order] = np.arange(len(order))
    place = 0
    for record in records:
        if record["status"] != "kept":
            yield record
            continue
        rank = of_place[place]
        place += 1
        if stays[rank] < 0:
            yield record
        else:
            stayed = int(identities[order[stays[rank]]])
            yield {
                **_rejected(record, "phash_distance", int(distances[rank])),
                "stayed": stayed,
            }


def _in_order(
    records: Iterable[Record], count: int
) -> tuple[NDArray[np.uint64], NDArray[np.intp], NDArray[np.int64]]:
    """Hashes and ids of the kept records, and the order of who should stay."""
    hashes, digests = np.empty(count, np.uint64), np.empty(count, np.uint64)
    sharpness, stamps = np.empty(count, np.float64), np.empty(count, np.int64)
    identities, filled = np.empty(count, np.int64), 0
    for record in records:
        if record["status"] == "kept":
            hashes[filled] = int(record["phash"], 16)
            digests[filled] = int(record["sha256"][:16], 16)
            sharpness[filled] = record["sharpness"]
            stamps[filled] = record.get("stamp_ns", UNKNOWN_AGE)
            identities[filled] = record["id"]
            filled += 1
    columns = (digests[:filled], stamps[:filled], -sharpness[:filled])
    return hashes[:filled], np.lexsort(columns), identities[:filled]
