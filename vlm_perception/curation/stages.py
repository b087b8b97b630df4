# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of a stage: complete or absent, with what it was made from."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.curation.durable import json_line, sync_folder, whole_file, write_bytes
from vlm_perception.curation.recipe import CurationError, Recipe, changes
from vlm_perception.curation.tasks import Record
from vlm_perception.outputs.swap import exchanged

RAW, FILTERED = STAGES = ("00_raw", "01_filtered")
STATUSES = ("kept", "rejected", "failed")
KEPT, FAILED = "kept.jsonl", "failed.jsonl"
MANIFEST = "stage.json"


class Manifest(BaseModel):
    """What a complete stage was made from, and how much of it there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: dict[str, Any]
    """The part of the recipe that it depends on, as JSON has it."""
    input: str
    """The digest of the stage before; empty for the first."""
    received: int
    kept: int
    rejected: int
    failed: int
    rules: dict[str, int]
    """Rejected images by rule."""
    digest: str
    """Of the lists of images; these name the images by digest."""


def recipe_part(stage: str, recipe: Recipe) -> dict[str, Any]:
    """What a stage depends on."""
    whole = recipe.model_dump(mode="json")
    key = {RAW: "sources", FILTERED: "filter"}[stage]
    return {key: whole[key]}


def read_manifest(folder: Path, stage: str) -> Manifest | None:
    """The manifest of a complete stage; None: it is absent.

    Raises:
        CurationError: what is there was not made by this program.
    """
    place = folder / stage
    if not place.exists():
        return None
    try:
        return Manifest.model_validate_json((place / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise CurationError(
            f"{place} is no stage of this program, or is damaged; move it away"
        ) from error


def why_stale(folder: Path, stage: str, manifest: Manifest, recipe: Recipe) -> str:
    """What has changed since a stage was made; empty: nothing."""
    different = changes(manifest.recipe, recipe_part(stage, recipe))
    if different:
        return "; ".join(different)
    return "" if input_digest(folder, stage) == manifest.input else f"{before(stage)} has changed"


def before(stage: str) -> str:
    """The stage before; empty for the first."""
    place = STAGES.index(stage)
    return STAGES[place - 1] if place else ""


def input_digest(folder: Path, stage: str) -> str:
    """The digest of the stage before; empty for the first, and where it is absent."""
    earlier = read_manifest(folder, before(stage)) if before(stage) else None
    return earlier.digest if earlier else ""


def write_stage(
    made: Path, stage: str, recipe: Recipe, input_of: str, received: int, records: Iterable[Record]
) -> Manifest:
    """Write the lists and the manifest of a stage.

    Args:
        made: its folder, which is not yet in its place.
        stage: its name.
        recipe: it was made by.
        input_of: the digest of the stage before.
        received: images that came in.
        records: what became of each.
    """
    counts: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    digest = hashlib.sha256()
    with ExitStack() as stack:
        streams = {
            status: stack.enter_context(whole_file(made / f"{status}.jsonl")) for status in STATUSES
        }
        for record in records:
            status = record.pop("status")
            line = json_line(record)
            streams[status].write(line)
            digest.update(status.encode() + line)
            counts[status] += 1
            if status == "rejected":
                rules[record["rule"]] += 1
    # A stage that lost an image on its way must not take its place.
    if sum(counts.values()) != received:
        raise AssertionError(f"{stage} received {received} images and accounts for {dict(counts)}")
    manifest = Manifest(
        name=stage,
        recipe=recipe_part(stage, recipe),
        input=input_of,
        received=received,
        **{status: counts[status] for status in STATUSES},
        rules=dict(sorted(rules.items())),
        digest=digest.hexdigest(),
    )
    write_bytes(made / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest


def put_in_place(made: Path, place: Path) -> None:
    """Move a whole stage to its place; a stale one that is there goes."""
    sync_folder(made)
    if place.exists() and not exchanged(made, place):
        # Where the file system cannot exchange, there is a moment without either.
        shutil.rmtree(place)
    if not place.exists():
        made.rename(place)
    sync_folder(place.parent)
