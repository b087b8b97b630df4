# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which copies the rules of a recipe find, measured on the set's own images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from vlm_perception import curation
from vlm_perception.curation.encoders import Encoder, open_encoder
from vlm_perception.curation.filtering.copies import (
    Image,
    cropped,
    flipped,
    jpeg_50,
    rotated_25,
    smaller,
)
from vlm_perception.curation.filtering.embedding_measure import cosines, unit
from vlm_perception.curation.filtering.hash_index import distances
from vlm_perception.curation.filtering.image_figures import image_figures
from vlm_perception.curation.image_files import stored_pixels
from vlm_perception.curation.json_lines import read_lines
from vlm_perception.curation.recipe import Filter, HarvestSource, Recipe, RecordingSource
from vlm_perception.curation.stage_folder import FILTERED, KEPT, RAW, Manifest
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.copy_cosine import copy_cosine
from vlm_perception.evaluation.code_digest import code_digest
from vlm_perception.evaluation.report import figure_table
from vlm_perception.outputs.durable import write_bytes

TABLE = "copies.json"
"""Beside the stages; is made again for another set or recipe."""
MOST = 200
"""Images that are copied, and pairs of neighbouring frames."""
SEED = 0
NEXT_FRAME = "next_frame"

T = TypeVar("T")
Flags = NDArray[np.bool_]


COPIES: dict[str, Callable[[Image], Image]] = {
    "exact": lambda image: image,
    "jpeg_50": jpeg_50,
    "resize": lambda image: smaller(image, 0.5),
    "crop_10_percent": cropped,
    "flip": flipped,
    "rotate_25": rotated_25,
}


def copy_table(folder: Path, recipe: Recipe, manifest: Manifest) -> list[dict[str, Any]]:
    """Recall and precision of each rule by the kind of copy; kept until the set changes.

    A copy should be found near its own image and near no other. Recall is the share of the copies
    that are near theirs; precision the share of those pairs among all that are near, None where
    none is. Neighbouring frames of a recording are no error. Images that went missing or were
    damaged are left out.

    Args:
        folder: that of the whole set.
        recipe: whose rules are measured.
        manifest: of 01_filtered.
    """
    rules = recipe.filter
    if not manifest.kept or (rules.phash_distance is None and rules.embedding is None):
        return []
    made_of = [manifest.digest, manifest.recipe, code_digest(curation)]
    try:
        known = json.loads((folder / TABLE).read_bytes())
        if known["made_of"] == made_of:
            return list(known["dedup"])
    except (OSError, ValueError, LookupError, TypeError):
        # It is not there, or not ours: it can be made.
        pass
    rows = [*_of_copies(folder, recipe, manifest), *_of_frames(folder, recipe)]
    text = json.dumps({"made_of": made_of, "dedup": rows}, indent=1)
    write_bytes(folder / TABLE, text.encode() + b"\n")
    return rows


def shown(rows: list[dict[str, Any]]) -> Table:
    """The table for people."""
    headings = ("copy", "rule", "images", "recall", "precision")
    table = figure_table("Copies that are found", *headings, words=2)
    for row in rows:
        figures = (row[key] for key in ("recall", "precision"))
        words = ("-" if each is None else f"{each:.3f}" for each in figures)
        table.add_row(row["kind"], row["rule"], str(row["images"]), *words)
    return table


@dataclass
class _Marks:
    """What images are known by."""

    encoder: Encoder | None
    hashes: list[int] = field(default_factory=list)
    rows: list[NDArray[np.float16]] = field(default_factory=list)

    def add(self, image: Image) -> None:
        pixels = np.ascontiguousarray(image)
        self.hashes.append(image_figures(pixels).phash)
        if self.encoder is not None:
            self.rows.append(self.encoder.images([pixels])[0].astype(np.float16))

    def near(self, images: _Marks, rules: Filter, folder: Path) -> dict[str, Flags]:
        """By rule: which of these are near to which of the images."""
        found: dict[str, Flags] = {}
        if rules.phash_distance is not None:
            mine, theirs = (np.array(each.hashes, np.uint64) for each in (self, images))
            found["phash"] = distances(mine[:, None], theirs[None, :]) <= rules.phash_distance
        if rules.embedding is not None:
            one, other = (unit(np.stack(each.rows)) for each in (self, images))
            found["embedding"] = cosines(one, other) >= copy_cosine(folder, rules.embedding)
        if len(found) == 2:
            found["both"] = found["phash"] | found["embedding"]
        return found


def _of_copies(folder: Path, recipe: Recipe, manifest: Manifest) -> Iterator[dict[str, Any]]:
    encoder = _encoder(folder, recipe)
    chosen = list(_chosen(read_lines(folder / FILTERED / KEPT), manifest.kept))
    records: list[Record] = []
    images, copies = _Marks(encoder), {kind: _Marks(encoder) for kind in COPIES}
    for record in track(chosen, "Finding copies", transient=True):
        pixels = stored_pixels(folder, record)
        if pixels is None:
            continue
        records.append(record)
        images.add(pixels)
        for kind, copied in COPIES.items():
            copies[kind].add(copied(pixels))
    if not records:
        return
    ids = np.array([record["id"] for record in records])
    drives = _drives(records, recipe)
    neighbours = (drives[:, None] == drives) & (np.abs(ids[:, None] - ids) == 1)
    for kind, marks in copies.items():
        yield from _rows(kind, marks.near(images, recipe.filter, folder), neighbours)


def _of_frames(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Images of 00_raw and those after them in their recordings."""

    def pairs() -> Iterator[tuple[Record, Record]]:
        for one, other in itertools.pairwise(read_lines(folder / RAW / KEPT)):
            same = (one["source"], one.get("recording")) == (
                other["source"],
                other.get("recording"),
            )
            if same and _is_drive(one, recipe):
                yield one, other

    count = sum(1 for _ in pairs())
    if not count:
        return
    encoder = _encoder(folder, recipe)
    images, later = _Marks(encoder), _Marks(encoder)
    records: list[Record] = []
    for pair in track(list(_chosen(pairs(), count)), "Finding next frames", transient=True):
        one, other = (stored_pixels(folder, record) for record in pair)
        if one is None or other is None:
            continue
        records.append(pair[0])
        images.add(one)
        later.add(other)
    if not records:
        return
    drives = _drives(records, recipe)
    yield from _rows(
        NEXT_FRAME, later.near(images, recipe.filter, folder), drives[:, None] == drives
    )


def _rows(kind: str, near: dict[str, Flags], no_error: Flags) -> Iterator[dict[str, Any]]:
    for rule, flags in near.items():
        own = np.eye(len(flags), dtype=np.bool_)
        right, wrong = int((flags & own).sum()), int((flags & ~own & ~no_error).sum())
        yield {
            "kind": kind,
            "rule": rule,
            "images": len(flags),
            "recall": right / len(flags),
            "precision": right / (right + wrong) if right + wrong else None,
        }


def _encoder(folder: Path, recipe: Recipe) -> Encoder | None:
    rule = recipe.filter.embedding
    return None if rule is None else open_encoder(rule.encoder, folder)


def _chosen(each: Iterable[T], count: int) -> Iterator[T]:
    """Up to MOST of them, at random."""
    random = np.random.default_rng(SEED)
    places = {*random.choice(count, min(MOST, count), replace=False).tolist()}
    return (one for place, one in enumerate(each) if place in places)


def _is_drive(record: Record, recipe: Recipe) -> bool:
    """Whether an image is one of a sequence."""
    return isinstance(recipe.sources[record["source"]], RecordingSource | HarvestSource)


def _drives(records: list[Record], recipe: Recipe) -> NDArray[np.int64]:
    """A number for each recording; images of other sources have one each."""
    numbers: dict[Any, int] = {}
    keys = [
        (each["source"], each.get("recording")) if _is_drive(each, recipe) else each["id"]
        for each in records
    ]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
