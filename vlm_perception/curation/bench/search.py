# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the search for near-duplicates, each size in a process of its own."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile

import numpy as np
from rich.console import Console

from vlm_perception.common.machine import peak_memory
from vlm_perception.curation.bench import drawn
from vlm_perception.curation.filtering.embedding_measure import EmbeddingMeasure
from vlm_perception.curation.filtering.near_duplicates import (
    HashMeasure,
    Measure,
    find_near_duplicates,
)
from vlm_perception.evaluation.measured_process import output_of

HASHES, EMBEDDINGS = "hashes", "embeddings"
DISTANCE, COSINE = 8, 0.95
"""What a recipe has by default."""
DIMENSIONS = 512
"""Of an embedding, as CLIP ViT-B/32 gives it."""
PROJECTED = 1_000_000


@dataclass(frozen=True)
class Search:
    """One search: each image is compared with those that are kept."""

    images: int
    near_duplicates: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Of the process."""
    beyond_mb: float
    """What the search added to the peak of before, when all images were drawn."""


@dataclass(frozen=True)
class Growth:
    """How the largest two searches differ, and what follows for 10^6 images."""

    exponent: float
    """Seconds grow with this power of the number of images."""
    projected_seconds: float


def searches(kind: str, sizes: Sequence[int], console: Console) -> list[Search]:
    """Search among so many images, one process after the other.

    Args:
        kind: HASHES or EMBEDDINGS.
        sizes: of the sets.
        console: shows what is being done.

    Raises:
        RunError: a process failed.
    """
    found = []
    for size in sizes:
        with console.status(f"searching {size} {kind}"):
            found.append(Search(**json.loads(output_of(__name__, kind, str(size)))))
    return found


def growth(found: Sequence[Search]) -> Growth:
    """The growth from the last but one to the last search, two at least, to PROJECTED images."""
    one, other = found[-2:]
    exponent = math.log(other.seconds / one.seconds) / math.log(other.images / one.images)
    projected = other.seconds * (PROJECTED / other.images) ** exponent
    return Growth(exponent, projected)


def search(measure: Measure, count: int) -> Search:
    """Find the near-duplicates among all images."""
    before, began, cpu_began = peak_memory(), time.perf_counter(), time.process_time()
    found = find_near_duplicates([measure], count)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    peak = peak_memory()
    copies = int((found.stays >= 0).sum())
    return Search(count, copies, seconds, cpu_seconds, peak / 1e6, (peak - before) / 1e6)


def search_embeddings(count: int) -> Search:
    """The same by embeddings in a file, where 01_filtered has them, too."""
    with TemporaryFile() as file:
        for rows in drawn.vectors(count, DIMENSIONS):
            file.write(rows.astype("<f2").tobytes())
        file.flush()
        stored = np.memmap(file, "<f2", "r", shape=(count, DIMENSIONS))
        return search(EmbeddingMeasure(stored, np.arange(count), COSINE), count)


def main() -> None:
    """Search once, and print what was found as JSON."""
    kind, count = sys.argv[1], int(sys.argv[2])
    if kind == HASHES:
        found = search(HashMeasure(drawn.hashes(count), DISTANCE), count)
    else:
        found = search_embeddings(count)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
