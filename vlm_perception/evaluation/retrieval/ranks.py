# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How many wrong items stand before the right one, exactly, in blocks that fit into memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 22
"""Scores at a time."""


def ranks(
    queries: NDArray[np.float32],
    pool: NDArray[np.float32],
    asked: NDArray[np.int64],
    offered: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Wrong items that stand before the best right one, for each query.

    An item of the same score as the right one stands before it, and so does one whose score is no
    number: embeddings that are all alike find nothing.

    Args:
        queries: [N, D].
        pool: [M, D].
        asked: [N], the image of each query.
        offered: [M], the image of each item; those of the query's image are right.

    Returns:
        [N], from 0, which is a hit at 1, to M where the pool holds no right item.
    """
    # A product may round differently by the place of a row in it: equal items are multiplied once,
    # so that they tie.
    rows, row_of = _distinct(pool)
    by_image = np.argsort(offered, kind="stable")
    first, last = (np.searchsorted(offered[by_image], asked, side) for side in ("left", "right"))
    step = max(1, BLOCK // max(1, len(offered)))
    found = np.empty(len(asked), np.int64)
    for at in range(0, len(asked), step):
        scores = queries[at : at + step] @ rows.T
        for query, row in enumerate(scores, start=at):
            right = row[row_of[by_image[first[query] : last[query]]]]
            # Not those from the best on: a comparison with NaN is false.
            best = right.max(initial=-np.inf)
            behind = np.count_nonzero((row < best)[row_of])
            found[query] = len(offered) - behind - np.count_nonzero(~(right < best))
    return found


def _distinct(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows that differ, and which of them each is."""
    whole = np.ascontiguousarray(rows)
    keys = whole.view(np.dtype((np.void, whole.shape[1] * whole.itemsize))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return whole[first], np.asarray(inverse, np.int64).reshape(-1)
