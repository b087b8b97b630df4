# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`curate calibrate`: sets the thresholds of a set for the encoders of its recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from vlm_perception.curation.calibration.calibrate_copies import copy_thresholds
from vlm_perception.curation.calibration.calibrate_copies import told as told_copies
from vlm_perception.curation.calibration.calibrate_pairs import pair_thresholds
from vlm_perception.curation.calibration.calibrate_pairs import told as told_pairs
from vlm_perception.curation.durable import write_bytes
from vlm_perception.curation.recipe import CurationError, Recipe, read_recipe
from vlm_perception.curation.thresholds.stored import THRESHOLDS, read_thresholds
from vlm_perception.outputs import work


def calibrate(folder: Path, seed: int) -> Iterator[Table]:
    """Find what the recipe has encoders for, and write it into the set's thresholds.json.

    Args:
        folder: of the set.
        seed: of what is drawn.

    Yields:
        A table for each part of the recipe, once it is written.

    Raises:
        CurationError: the recipe has no encoder, or the images are missing.
        OutputError: a run is at work in the folder.
    """
    folder = folder.resolve()
    recipe = read_recipe(folder)
    handle = work.taken(folder, "choose another folder")
    try:
        yield from _calibrated(folder, recipe, seed)
    finally:
        os.close(handle)


def _calibrated(folder: Path, recipe: Recipe, seed: int) -> Iterator[Table]:
    found: dict[str, Any] = {}
    if recipe.filter.embedding is not None:
        copies = copy_thresholds(folder, recipe.filter, seed)
        found["filter"] = copies.model_dump()
        _write(folder, found)
        yield _table("Copies by embedding", told_copies(copies))
    if recipe.quality is not None:
        pairs = pair_thresholds(folder, recipe.quality, seed)
        found["quality"] = pairs.model_dump()
        _write(folder, found)
        yield _table("Pairs of image and caption", told_pairs(pairs))
    if not found:
        raise CurationError(
            "the recipe has nothing to calibrate: no `quality` and no `filter.embedding`"
        )


def _write(folder: Path, found: dict[str, Any]) -> None:
    try:
        known = read_thresholds(folder)
    except CurationError:
        # A damaged file is made anew.
        known = {}
    content = json.dumps({**known, **found}, indent=1)
    write_bytes(folder / THRESHOLDS, content.encode() + b"\n")


def _table(title: str, rows: Mapping[str, str]) -> Table:
    table = Table("figure", "value", title=title, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
