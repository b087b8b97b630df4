# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The end of 01_filtered: of near-duplicates one stays."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.embedding_measure import EmbeddingMeasure, Rows
from vlm_perception.curation.filtering.hash_index import NONE
from vlm_perception.curation.filtering.near_duplicates import (
    HashMeasure,
    Measure,
    NearDuplicates,
    find_near_duplicates,
)
from vlm_perception.curation.stage_folder import EMBEDDING, PHASH
from vlm_perception.curation.step import Finish
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.copy_cosine import copy_cosine

UNKNOWN_AGE = np.iinfo(np.int64).max
ROW = "embedding"
"""In a record until the stage ends: the embedding, as `packed` gives it."""
SHOWN_DIGITS = 6
TOLD = ("captions", "objects", "licence")
"""What sources say of an image that its file does not."""


def packed(embedding: NDArray[np.float32]) -> str:
    """An embedding [D] in half precision, as text."""
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode()


def without_near_duplicates(records: Iterable[Record], end: Finish) -> Iterable[Record]:
    """The records; near-duplicates among the kept ones become rejected.

    The sharpest image stays, of equally sharp ones the oldest, then one with captions, then that
    with the lowest digest. What is known of exact copies of an image that stays is kept with it:
    captions, objects and the licence.

    Args:
        records: iterated several times.
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
    digests: NDArray[np.uint64]
    """The first 64 bits of each."""
    identities: NDArray[np.int64]
    order: NDArray[np.intp]
    """Of who should stay."""


def _known(records: Iterable[Record], count: int, rows: IO[bytes]) -> _Known:
    """Reads the kept records; their embeddings, where they have them, go into a file."""
    hashes, digests = np.empty(count, np.uint64), np.empty(count, np.uint64)
    sharpness, stamps = np.empty(count, np.float64), np.empty(count, np.int64)
    identities, bare = np.empty(count, np.int64), np.empty(count, np.bool_)
    filled = 0
    for record in records:
        if record["status"] == "kept":
            hashes[filled] = int(record["phash"], 16)
            digests[filled] = int(record["sha256"][:16], 16)
            sharpness[filled] = record["sharpness"]
            stamps[filled] = record.get("stamp_ns", UNKNOWN_AGE)
            identities[filled] = record["id"]
            bare[filled] = not record.get("captions")
            rows.write(base64.b64decode(record.get(ROW, "")))
            filled += 1
    columns = (digests[:filled], bare[:filled], stamps[:filled], -sharpness[:filled])
    order = np.lexsort(columns)
    return _Known(hashes[:filled], digests[:filled], identities[:filled], order)


def _mapped(rows: IO[bytes], count: int) -> Rows:
    rows.flush()
    mapped: Rows = np.memmap(rows, "<f2", "r")
    return mapped.reshape(count, -1)


def _judged(
    records: Iterable[Record], known: _Known, found: NearDuplicates, rules: list[str]
) -> Iterable[Record]:
    stays = np.full(len(known.order), NONE, np.int64)
    """Of each image the place of the one that stays in its stead."""
    near = found.stays != NONE
    stays[known.order[near]] = known.order[found.stays[near]]
    ranks = np.argsort(known.order)
    copied = _of_copies(records, known, stays)
    for place, record in _placed(records):
        record.pop(ROW, None)
        if place == NONE or stays[place] == NONE:
            yield _with(record, copied.get(place, {}))
            continue
        rank = ranks[place]
        rule, gap = rules[found.measures[rank]], float(found.gaps[rank])
        figure = int(gap) if rule == PHASH else round(-gap, SHOWN_DIGITS)
        stayed = int(known.identities[stays[place]])
        yield {**record, "status": "rejected", "rule": rule, "figure": figure, "stayed": stayed}


def _placed(records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    """The records, each with its place among the kept ones, or NONE."""
    place = 0
    for record in records:
        if record["status"] == "kept":
            yield place, record
            place += 1
        else:
            yield NONE, record


def _of_copies(
    records: Iterable[Record], known: _Known, stays: NDArray[np.int64]
) -> dict[int, Record]:
    """What exact copies say of the images that stay, by the places of these."""
    exact = (stays != NONE) & (known.digests[stays] == known.digests)
    told: dict[int, Record] = {}
    if not exact.any():
        return told
    for place, record in _placed(records):
        if place != NONE and exact[place]:
            stayed = int(stays[place])
            said = {key: record[key] for key in TOLD if key in record}
            told[stayed] = _with(told.get(stayed, {}), said)
    return told


def _with(record: Record, said: Record) -> Record:
    """A record, and what was said of an exact copy; no caption and no object twice."""
    joined = dict(record)
    for key, value in said.items():
        there = joined.get(key)
        if not there:
            joined[key] = value
        elif isinstance(value, list):
            joined[key] = [*there, *(each for each in value if each not in there)]
    return joined
