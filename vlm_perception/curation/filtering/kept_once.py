# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The end of 01_filtered: of near-duplicates one stays."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.embedding_measure import EmbeddingMeasure, Rows
from vlm_perception.curation.filtering.near_duplicates import (
    HashMeasure,
    Measure,
    NearDuplicates,
    find_near_duplicates,
)
from vlm_perception.curation.step import Finish
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.copy_cosine import copy_cosine

UNKNOWN_AGE = np.iinfo(np.int64).max
PHASH, EMBEDDING = "phash_distance", "embedding_cosine"
ROW = "embedding"
"""In a record until the stage ends: the embedding, as `packed` gives it."""
SHOWN_DIGITS = 6


def packed(embedding: NDArray[np.float32]) -> str:
    """An embedding [D] in half precision, as text."""
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode()


def without_near_duplicates(records: Iterable[Record], end: Finish) -> Iterable[Record]:
    """The records; near-duplicates among the kept ones become rejected.

    The sharpest image stays, of equally sharp ones the oldest, then that with the lowest digest.

    Args:
        records: iterated twice.
        end: of the stage.
    """
    rules = end.recipe.filter
    with TemporaryFile(dir=end.made) as rows:
        known = _known(records, end.received, rows)
        measures: dict[str, Measure] = {}
        if rules.phash_distance is not None:
            measures[PHASH] = HashMeasure(known.hashes[known.order], rules.phash_distance)
        if rules.embedding is not None and len(known.order):
            stored = _mapped(rows, len(known.order))
            cosine = copy_cosine(end.folder, rules.embedding)
            measures[EMBEDDING] = EmbeddingMeasure(stored, known.order, cosine)
        found = find_near_duplicates([*measures.values()], len(known.order), end.progress)
    yield from _judged(records, known, found, [*measures])


@dataclass(frozen=True)
class _Known:
    """What decides about the images that are kept so far, in their order."""

    hashes: NDArray[np.uint64]
    identities: NDArray[np.int64]
    order: NDArray[np.intp]
    """Of who should stay."""


def _known(records: Iterable[Record], count: int, rows: IO[bytes]) -> _Known:
    """Reads the kept records; their embeddings, where they have them, go into a file."""
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
            rows.write(base64.b64decode(record.get(ROW, "")))
            filled += 1
    columns = (digests[:filled], stamps[:filled], -sharpness[:filled])
    return _Known(hashes[:filled], identities[:filled], np.lexsort(columns))


def _mapped(rows: IO[bytes], count: int) -> Rows:
    rows.flush()
    mapped: Rows = np.memmap(rows, "<f2", "r")
    return mapped.reshape(count, -1)


def _judged(
    records: Iterable[Record], known: _Known, found: NearDuplicates, rules: list[str]
) -> Iterable[Record]:
    rank_of = np.empty(len(known.order), np.int64)
    rank_of[known.order] = np.arange(len(known.order))
    place = 0
    for record in records:
        record.pop(ROW, None)
        if record["status"] != "kept":
            yield record
            continue
        rank = rank_of[place]
        place += 1
        if found.stays[rank] < 0:
            yield record
            continue
        rule = rules[found.measures[rank]]
        gap = float(found.gaps[rank])
        figure = int(gap) if rule == PHASH else round(-gap, SHOWN_DIGITS)
        stayed = int(known.identities[known.order[found.stays[rank]]])
        yield {**record, "status": "rejected", "rule": rule, "figure": figure, "stayed": stayed}
