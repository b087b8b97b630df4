# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recall of retrieval at 1, 5 and 10, with intervals, from what was found for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.evaluation.comparison.bootstrap import estimate
from vlm_perception.evaluation.comparison.scored import Array, Counted, ratio

DEPTHS = (1, 5, 10)
DIRECTIONS = I2T, T2I = ("i2t", "t2i")

Record = Mapping[str, Any]
"""What was found for one image: its name as `image`; `i2t`, how many wrong captions stand before
the best of its own; `t2i`, for each of its captions, how many wrong images stand before it; and
`by_language`, the same among the images and captions of one language alone, by the language. For
JSON."""


def figures(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of both directions, over all captions and `by_language`.

    `r1` is the share of queries of which a right item is the first, `r1_low` and `r1_high` are
    around it what other images would give in 95 % (all captions of an image are drawn with it, and
    the pool stays as it is), and `r1_chance` is what a random order gives. `pool` is the number of
    items.

    Args:
        records: of all images of the pool.
    """
    return {
        **_directions(records),
        "by_language": {
            language: _directions(in_language(records, language)) for language in languages(records)
        },
    }


def languages(records: Sequence[Record]) -> list[str]:
    """Those of the captions."""
    return sorted({language for record in records for language in record["by_language"]})


def in_language(records: Sequence[Record], language: str) -> list[Record]:
    """The records of one language alone."""
    return [
        {"image": record["image"], **record["by_language"][language]}
        for record in records
        if language in record["by_language"]
    ]


def scored(records: Sequence[Record]) -> Counted:
    """Recalls as `i2t.r1`, for any weights of the images; the pool stays as it is."""
    names = [f"{direction}.r{depth}" for direction in DIRECTIONS for depth in DEPTHS]
    counts = [_hits(records, direction, depth) for direction in DIRECTIONS for depth in DEPTHS]
    right, asked = (np.stack(columns, axis=1) for columns in zip(*counts, strict=True))

    def ratios(sums: Array) -> dict[str, Array]:
        above, below = np.split(sums, 2, axis=1)
        return dict(zip(names, ratio(above, below).T, strict=True))

    both = np.concatenate([right, asked], axis=1).astype(np.float64)
    return Counted([record["image"] for record in records], both, ratios)


def _hits(
    records: Sequence[Record], direction: str, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of each image's queries have a right item among the first, and of how many.

    Args:
        records: of N images.
        direction: I2T, of which each image is one query, or T2I, of which its captions are.
        depth: how many items count as the first.

    Returns:
        Two of [N]; the sum of the one over that of the other is the recall.
    """
    found = [np.atleast_1d(record[direction]) for record in records]
    return (
        np.array([np.count_nonzero(ranks < depth) for ranks in found], np.int64),
        np.array([len(ranks) for ranks in found], np.int64),
    )


def _directions(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    captions = np.array([len(record[T2I]) for record in records], np.int64)
    images, pool = len(records), int(captions.sum())
    found: dict[str, dict[str, float]] = {
        I2T: {"pool": pool, "queries": images},
        T2I: {"pool": images, "queries": pool},
    }
    for name, recall in estimate(scored(records)).items():
        direction, key = name.split(".")
        bounds = {key: recall.value, f"{key}_low": recall.low, f"{key}_high": recall.high}
        found[direction] |= bounds
    for depth in DEPTHS:
        found[I2T][f"r{depth}_chance"] = _chance(captions, pool, depth)
        found[T2I][f"r{depth}_chance"] = min(1.0, depth / images)
    return found


def _chance(right: NDArray[np.int64], pool: int, depth: int) -> float:
    """Chance that one of an image's captions, [N], is among the first of a random order."""
    places = np.arange(min(depth, pool))
    misses = (pool - right[:, np.newaxis] - places).clip(0) / (pool - places)
    return float(np.mean(1.0 - misses.prod(axis=1)))
