# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which group of images goes into which split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_ORDERS = 200
MOST_STEPS = 200_000
"""Groups that are assigned in all orders together."""


def assigned(
    sizes: Sequence[int] | NDArray[np.int64], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each group.

    Groups are taken in an order at random, each for the split that lacks most images. (Largest
    first would come nearer to the shares at once, but would test on the shortest recordings alone.)
    Of several such orders the one counts that leaves no split empty and is nearest to the shares.

    Args:
        sizes: images of each group.
        shares: of the splits; they add up to 1.
        seed: of the order.
    """
    names = sorted(shares, key=lambda name: (-shares[name], name))
    counts = [int(size) for size in sizes]
    wanted = [shares[name] * sum(counts) for name in names]
    best: tuple[tuple[int, float], list[int]] | None = None
    for attempt in range(max(1, min(MOST_ORDERS, MOST_STEPS // max(1, len(counts))))):
        order = np.argsort(chances(len(counts), f"{seed} {attempt}"), kind="stable")
        found, lacks = _filled(counts, wanted, order.tolist())
        empty = len(names) - len(set(found))
        badness = (empty, sum(map(abs, lacks)))
        if best is None or badness < best[0]:
            best = badness, found
    assert best is not None
    return [names[split] for split in best[1]]


def _filled(
    sizes: Sequence[int], wanted: Sequence[float], order: Sequence[int]
) -> tuple[list[int], list[float]]:
    """The split of each group, taken in this order, and what each split lacks then."""
    found, lacks = [0] * len(order), list(wanted)
    empty = list(range(len(wanted)))
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        # The last ones are for splits that would have none.
        split = empty[0] if 0 < len(empty) >= left else lacks.index(max(lacks))
        if split in empty:
            empty.remove(split)
        found[group] = split
        lacks[split] -= sizes[group]
    return found, lacks


def chances(count: int, seed: str) -> NDArray[np.uint64]:
    """Numbers at random, the same for the same seed with any version of any library."""
    stream = hashlib.shake_128(seed.encode()).digest(8 * count)
    return np.frombuffer(stream, "<u8").astype(np.uint64)
