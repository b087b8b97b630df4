# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""04_final: shards of each split, an index of each, and set.json, which has their digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vlm_perception.bundle.files import file_sha256
from vlm_perception.curation.final.groups import recording
from vlm_perception.curation.final.index import Index, require_parquet
from vlm_perception.curation.final.plan import Plan, planned
from vlm_perception.curation.recipe import Recipe
from vlm_perception.curation.stage_folder import FINAL, before, require_whole
from vlm_perception.curation.step import Finish
from vlm_perception.curation.tasks import Record
from vlm_perception.datasets.final_set import SET, Contents, Shard
from vlm_perception.outputs.durable import whole_file, write_bytes

AMISS = 0.02
"""Share of all images by which a split may miss its own."""


def final_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The shards; see `step.Step`.

    Raises:
        CurationError: Parquet cannot be written.
        DamagedError: what is to be written is not as it was left.
    """
    require_parquet()
    require_whole(folder, before(FINAL))
    for shard in planned(folder, recipe).shards(folder, recipe):
        yield {"folder": str(folder), "shard": shard.name, "records": shard.records}


def with_indexes(records: Iterable[Record], end: Finish) -> Iterator[Record]:
    """The records, while their indexes are written; at the end set.json."""
    shards: dict[str, list[Shard]] = {split: [] for split in end.recipe.final.splits}
    with ExitStack() as stack:
        indexes = {
            split: stack.enter_context(
                Index(stack.enter_context(whole_file(end.made / f"{split}.parquet")))
            )
            for split in shards
        }
        for record in records:
            if record["status"] == "kept":
                _count(shards[record["split"]], record, end.made)
                indexes[record["split"]].add(record)
            yield record
            end.progress(1, 0)
    write_bytes(end.made / SET, Contents.of(shards).as_json())
    end.notes.extend(_notes(planned(end.folder, end.recipe), end.recipe))


def _count(shards: list[Shard], record: Record, made: Path) -> None:
    """Take note of an image; those of a shard follow each other."""
    name, captions = record["shard"], len(record.get("captions", ()))
    if shards and shards[-1].name == name:
        shards[-1] = shards[-1].with_image(captions)
    else:
        file = made / name
        digest, size = file_sha256(file), file.stat().st_size
        shards.append(Shard(name=name, sha256=digest, bytes=size, images=1, captions=captions))


def _notes(plan: Plan, recipe: Recipe) -> Iterator[str]:
    """What is to be said of the splits."""
    counts, total = plan.counts(), len(plan.offsets)
    asked = recipe.final.splits
    found = {split: counts.get(split, 0) / max(1, total) for split in asked}
    missed = any(abs(found[split] - share) > AMISS for split, share in asked.items())
    if not total or not missed or max(plan.groups.sizes) == 1:
        return
    largest = plan.largest()
    told = ", ".join(
        f"{split} has {100 * found[split]:.0f} % of the images in place of {100 * share:.0f} %"
        for split, share in asked.items()
    )
    yield (
        f"{told}: images of one recording or place stay together, and the largest of "
        f"{len(plan.groups.sizes)} groups (that of {recording(largest)}, "
        f"source {largest['source']}) has {max(plan.groups.sizes)} images; add recordings, or set "
        "`unrelated: true` at a source whose images have nothing to do with each other"
    )
