# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`curate calibrate`: sets the thresholds of a set for the encoders of its recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from vlm_perception.curation.calibration.calibrate_copies import copy_rows, copy_thresholds
from vlm_perception.curation.calibration.calibrate_pairs import pair_rows, pair_thresholds
from vlm_perception.curation.calibration.too_early import TooEarlyError
from vlm_perception.curation.recipe import (
    CurationError,
    EmbeddingRule,
    Filter,
    Quality,
    Recipe,
    read_recipe,
)
from vlm_perception.curation.stage_folder import FILTERED, read_manifest
from vlm_perception.curation.thresholds.copy_cosine import COPY_SECTION, copy_cosine
from vlm_perception.curation.thresholds.pair_limits import PAIR_SECTION
from vlm_perception.curation.thresholds.stored import CALIBRATED, THRESHOLDS, read_thresholds
from vlm_perception.outputs import work
from vlm_perception.outputs.durable import write_bytes


def calibrate(folder: Path, seed: int) -> Iterator[Table | str]:
    """Find what the recipe wants calibrated, and write it into the set's thresholds.json.

    A threshold of copies by which 01_filtered was made stays.

    Args:
        folder: of the set.
        seed: of what is drawn.

    Yields:
        A table for each part of the recipe, once it is written, or a sentence why it is not.

    Raises:
        CurationError: the recipe wants nothing calibrated, or all of it lacks its stage.
        OutputError: a run is at work in the folder.
    """
    folder = folder.resolve()
    recipe = read_recipe(folder)
    handle = work.taken(folder, "choose another folder")
    try:
        yield from _calibrated(folder, recipe, seed)
    finally:
        os.close(handle)


def _calibrated(folder: Path, recipe: Recipe, seed: int) -> Iterator[Table | str]:
    parts = [*_asked(folder, recipe, seed)]
    early: list[str] = []
    for part in parts:
        try:
            yield part()
        except TooEarlyError as error:
            early.append(str(error))
    if not parts:
        raise CurationError(
            "the recipe has nothing to calibrate: neither `quality` with `thresholds: calibrated` "
            "nor `filter.embedding` with `cosine: calibrated`"
        )
    if len(early) == len(parts):
        raise TooEarlyError("; ".join(early))
    yield from early


def _asked(folder: Path, recipe: Recipe, seed: int) -> Iterator[Callable[[], Table | str]]:
    """What finds each part that the recipe wants calibrated."""
    embedding, quality = recipe.filter.embedding, recipe.quality
    if embedding is not None and embedding.cosine == CALIBRATED:
        yield partial(_copies, folder, recipe.filter, embedding, seed)
    if quality is not None and quality.thresholds == CALIBRATED:
        yield partial(_pairs, folder, quality, seed)


def _copies(folder: Path, rules: Filter, embedding: EmbeddingRule, seed: int) -> Table | str:
    if _in_use(folder, embedding):
        return (
            f"the threshold of copies stays, as {FILTERED} was made by it; move {THRESHOLDS} away "
            "to find it anew"
        )
    found = copy_thresholds(folder, rules, seed)
    _write(folder, {COPY_SECTION: found.model_dump()})
    return _table("Copies by embedding", copy_rows(found))


def _in_use(folder: Path, embedding: EmbeddingRule) -> bool:
    """Whether 01_filtered was made by the threshold of copies, and the recipe asks for no other."""
    manifest = read_manifest(folder, FILTERED)
    try:
        copy_cosine(folder, embedding)
        known = read_thresholds(folder).get(COPY_SECTION)
    except CurationError:
        return False
    return manifest is not None and manifest.recipe.get("thresholds", {}).get(COPY_SECTION) == known


def _pairs(folder: Path, quality: Quality, seed: int) -> Table:
    found = pair_thresholds(folder, quality, seed)
    _write(folder, {PAIR_SECTION: found.model_dump()})
    return _table("Pairs of image and caption", pair_rows(found))


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
