# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether images find their own captions among those of others: does the set as a whole hold?"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.common.errors import RunError
from vlm_perception.curation.journal import Journal
from vlm_perception.curation.json_lines import DamagedError
from vlm_perception.curation.quality.pair_scores import PairScores
from vlm_perception.curation.recipe import Retrieval
from vlm_perception.curation.sample import lot
from vlm_perception.curation.stage_folder import QUALITY
from vlm_perception.curation.tasks import Record
from vlm_perception.evaluation.retrieval.ranks import ranks
from vlm_perception.media.image_errors import ImageError
from vlm_perception.outputs.durable import write_bytes

RETRIEVAL = "retrieval.json"
DEPTH = 10
WORST = 50
"""Images that a report shows."""


class RetrievalCheck(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    asked: int
    """Images that the recipe asks for."""
    pool: int
    """Images that there were."""
    captions: int
    """Different ones, in whose order the right one was looked for."""
    miss_at_10: float | None
    """Share of the images whose caption was not among the first ten; None: there are no more than
    ten, of which none can be missed."""
    most_missed: float
    passed: bool | None
    """None: that cannot be told."""
    worst: tuple[dict[str, Any], ...]
    """Records of the images whose caption came last, that one first, with its `rank`, from 1."""

    @property
    def told(self) -> str:
        """In a sentence."""
        if self.miss_at_10 is None:
            return (
                f"retrieval check: {self.captions} different captions are too few to tell; from "
                f"{DEPTH + 1} on, one can be missed among the first {DEPTH}"
            )
        small = f" (the recipe asks for {self.asked})" if self.pool < self.asked else ""
        return (
            f"retrieval check: of {self.pool} images{small} {self.miss_at_10:.1%} do not find "
            f"their caption among the first {DEPTH} of {self.captions}"
        )


class Pool:
    """Takes the kept records of a set, and holds those that are in its pool.

    These are chosen by a digest of their image: the same images for the same set.
    """

    def __init__(self, size: int) -> None:
        """Begin without any."""
        self._size = size
        self._chosen: list[tuple[int, int, Record]] = []

    def passing(self, records: Iterable[Record]) -> Iterator[Record]:
        """Give all records on, and take note of those that are kept."""
        for record in records:
            if record["status"] == "kept" and any("score" in each for each in record["captions"]):
                self._take(record)
            yield record

    def _take(self, record: Record) -> None:
        entry = (-lot(record, "pool"), -record["id"], record)
        if len(self._chosen) < self._size:
            heapq.heappush(self._chosen, entry)
        else:
            heapq.heappushpop(self._chosen, entry)

    def records(self) -> list[Record]:
        """Those that were chosen, by their ids."""
        return sorted((entry[2] for entry in self._chosen), key=lambda record: record["id"])


def check(
    folder: Path, records: Sequence[Record], scores: PairScores, asked: Retrieval
) -> RetrievalCheck:
    """Rank all captions for each image.

    Args:
        folder: of the set.
        records: of the pool, at least one; captions with a score are those that count, and images
            that went missing or were damaged are left out.
        scores: embed.
        asked: of the recipe.
    """
    records, found = _ranked(folder, records, scores)
    captions = _captions(records)
    different = len({text for each in captions for text in each})
    missed = sum(rank >= DEPTH for rank in found) / len(found) if different > DEPTH else None
    order = sorted(range(len(found)), key=lambda place: (-found[place], records[place]["id"]))
    worst = [
        {**records[place], "rank": found[place] + 1}
        for place in order[:WORST]
        if found[place] >= DEPTH
    ]
    return RetrievalCheck(
        asked=asked.pool,
        pool=len(records),
        captions=different,
        miss_at_10=missed,
        most_missed=asked.most_missed,
        passed=None if missed is None else missed < asked.most_missed,
        worst=tuple(worst),
    )


def _captions(records: Sequence[Record]) -> list[list[str]]:
    return [[each["text"] for each in r["captions"] if "score" in each] for r in records]


def _ranked(
    folder: Path, records: Sequence[Record], scores: PairScores
) -> tuple[Sequence[Record], list[int]]:
    """The images that can be read, and their ranks.

    These are from the journal where it has them: last digits may differ elsewhere.
    """
    request = {"kind": "ranks", "encoder": scores.encoder.digest, "prefix": scores.prefix}
    journal = Journal(folder)
    known = journal.known(_pool_digest(records), request)
    if known is None:
        read = [(record, row) for record in records if (row := _row(record, scores)) is not None]
        records = [record for record, _ in read]
        rows = [row for _, row in read]
        found = caption_ranks(np.stack(rows), _captions(records), scores.texts) if read else []
        known = journal.add(_pool_digest(records), request, found)
    return records, [int(rank) for rank in known]


def _pool_digest(records: Sequence[Record]) -> str:
    pairs = [[r["sha256"], texts] for r, texts in zip(records, _captions(records), strict=True)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _row(record: Record, scores: PairScores) -> NDArray[np.float32] | None:
    try:
        return scores.image(record)
    except ImageError:
        return None


def caption_ranks(
    images: NDArray[np.float32],
    captions: Sequence[Sequence[str]],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
) -> list[int]:
    """How many different captions stand before the best right one, for each image.

    A text is right for each image that has it, so that identical captions are hits; of the right
    ones of an image, the best counts.

    Args:
        images: embeddings, [N, D].
        captions: of each, one or more.
        embed: embeds captions, [M, D].
    """
    texts = list(dict.fromkeys(text for each in captions for text in each))
    place = {text: number for number, text in enumerate(texts)}
    rows = embed(texts)
    best = [
        max((place[text] for text in each), key=lambda number: float(image @ rows[number]))
        for image, each in zip(images, captions, strict=True)
    ]
    right = np.array(best, np.int64)
    return [int(rank) for rank in ranks(images, rows, right, np.arange(len(texts)))]


def write_check(made: Path, found: RetrievalCheck) -> None:
    """Write it into the folder of the stage."""
    write_bytes(made / RETRIEVAL, found.model_dump_json(indent=1).encode() + b"\n")


def read_check(folder: Path) -> RetrievalCheck | None:
    """That of a set; None: there is none.

    Raises:
        DamagedError: it was altered since.
    """
    file = folder / QUALITY / RETRIEVAL
    if not file.exists():
        return None
    try:
        return RetrievalCheck.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DamagedError(f"{file} is damaged; make it again with --redo {QUALITY}") from error


def require_passed(folder: Path) -> None:
    """Stop where a set has failed the check.

    Raises:
        RunError: it has.
    """
    found = read_check(folder)
    if found is not None and found.passed is False:
        raise RunError(
            f"{found.told}, and {found.most_missed:.0%} is the limit: re-clean the dataset; "
            f"`vlm-perception curate report {folder}` shows the worst"
        )
