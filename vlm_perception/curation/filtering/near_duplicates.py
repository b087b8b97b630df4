# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which images are near-duplicates of one that is kept.

Being near is not transitive: the images of a drive form a chain from its first to its last. So
images are compared with kept ones only, in the order of who should stay, and no group is merged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.hash_index import NONE, Hashes, HashIndex, distances

BLOCK = 1024

Progress = Callable[[int], None]


def find_near_duplicates(
    hashes: Hashes, radius: int, progress: Progress = lambda count: None
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """For each hash the kept one that it is near to.

    A hash is kept where no kept one before it is within the radius. This is exact: the same as if
    each were compared with all kept ones.

    Args:
        hashes: uint64 [N], those that should stay first.
        radius: greatest Hamming distance of near-duplicates.
        progress: is called with the number of hashes that were judged since the last call.

    Returns:
        For each hash the index of the nearest kept one, of several the first; NONE where it is kept
        itself. And the distance.
    """
    index = HashIndex(radius)
    kept_at: NDArray[np.int32] = np.empty(0, np.int32)
    stays = np.full(len(hashes), NONE, np.int32)
    found = np.zeros(len(hashes), np.uint8)
    for begin in range(0, len(hashes), BLOCK):
        block = hashes[begin : begin + BLOCK]
        numbers, found[begin : begin + BLOCK] = index.nearest(block)
        near = numbers != NONE
        stays[begin : begin + BLOCK][near] = kept_at[numbers[near]]
        kept = _judge_among(block, begin, near, radius, stays, found)
        index.add(hashes[kept])
        kept_at = np.concatenate([kept_at, kept])
        progress(len(block))
    return stays, found


def _judge_among(
    block: Hashes,
    begin: int,
    near: NDArray[np.bool_],
    radius: int,
    stays: NDArray[np.int32],
    found: NDArray[np.uint8],
) -> NDArray[np.int32]:
    """Compare a block with itself; returns the indices that are kept."""
    apart = distances(block[:, None], block[None, :])
    kept: list[int] = []
    for place in range(len(block)):
        if kept:
            to_kept = apart[place, kept]
            closest = int(np.argmin(to_kept))
            distance = int(to_kept[closest])
            at = begin + place
            if distance <= radius and (not near[place] or distance < found[at]):
                stays[at], found[at] = begin + kept[closest], distance
                continue
        if not near[place]:
            kept.append(place)
    return np.array(kept, np.int32) + np.int32(begin)
