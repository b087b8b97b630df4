# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Exact search for near hashes: of 64 bits, within a Hamming distance, among those added so far.

Multi-index hashing (M. Norouzi, A. Punjani, D. Fleet, Fast Exact Search in Hamming Space with
Multi-Index Hashing, 2014, section 3): where two hashes differ in r bits, cut into m bands, and r =
m s + a, they differ in s bits or fewer in one of the first a + 1 bands, or in s - 1 or fewer in one
of the others. So a search looks up a few keys in a table for each band, and compares only what it
finds there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

BITS, BANDS = 64, 4
BAND_BITS = BITS // BANDS
KEYS = 1 << BAND_BITS
MOST_CANDIDATES = 1 << 22
"""Pairs that are compared at a time: this bounds the memory."""
NONE = -1

_BITS_OF = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def distances(one: Hashes, other: Hashes) -> NDArray[np.uint8]:
    """Hamming distances, for arrays that broadcast."""
    differing = np.ascontiguousarray(one ^ other)
    words = differing.view(np.uint16).reshape(*differing.shape, BANDS)
    return np.asarray(_BITS_OF[words].sum(axis=-1, dtype=np.uint8))


class HashIndex:
    """Hashes, numbered as they are added."""

    def __init__(self, radius: int) -> None:
        """Begin without any.

        Args:
            radius: the Hamming distance within which hashes are found, 0 to 64.
        """
        self._radius = radius
        near, extra = divmod(radius, BANDS)
        self._bands = [_Band(place, near if place <= extra else near - 1) for place in range(BANDS)]
        self._count = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def add(self, hashes: Hashes) -> None:
        """Add hashes; they get the next numbers."""
        numbers = np.arange(self._count, self._count + len(hashes), dtype=np.int32)
        for band in self._bands:
            band.add(hashes, numbers)
        self._count += len(hashes)

    def nearest(self, queries: Hashes) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """The nearest hash to each query; of several, the one that was added first.

        Returns:
            The numbers, NONE where there is none within the radius, and the distances.
        """
        # Distance and number in one value, of which the smallest is wanted.
        best = np.full(len(queries), np.iinfo(np.int64).max, np.int64)
        for band in self._bands:
            for places, numbers, hashes in band.candidates(queries):
                found = distances(hashes, queries[places])
                within = found <= self._radius
                ranked = found[within].astype(np.int64) << 32 | numbers[within]
                np.minimum.at(best, places[within], ranked)
        none = best == np.iinfo(np.int64).max
        numbers = np.where(none, NONE, best & 0xFFFFFFFF).astype(np.int32)
        return numbers, np.where(none, 0, best >> 32).astype(np.uint8)


class _Band:
    """The hashes sorted by 16 of their bits."""

    def __init__(self, place: int, near: int) -> None:
        self._shift = np.uint64(place * BAND_BITS)
        flips = [
            sum(1 << bit for bit in bits)
            for count in range(near + 1)
            for bits in combinations(range(BAND_BITS), count)
        ]
        self._flips = np.array(flips, np.int64)
        self._hashes: Hashes = np.empty(0, np.uint64)
        self._numbers: NDArray[np.int32] = np.empty(0, np.int32)
        self._begins = np.zeros(KEYS + 1, np.int64)

    def add(self, hashes: Hashes, numbers: NDArray[np.int32]) -> None:
        keys = self._keys(hashes)
        order = np.argsort(keys, kind="stable")
        at = self._begins[keys[order] + 1]
        self._hashes = np.insert(self._hashes, at, hashes[order])
        self._numbers = np.insert(self._numbers, at, numbers[order])
        self._begins[1:] += np.cumsum(np.bincount(keys, minlength=KEYS))

    def candidates(
        self, queries: Hashes
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int32], Hashes]]:
        """Places of queries, each with the number and the hash of one that may be near to it."""
        if not len(self._flips) or not len(queries):
            return
        keys = self._keys(queries)[:, None] ^ self._flips
        begins, ends = self._begins[keys], self._begins[keys + 1]
        rows, columns = np.nonzero(ends > begins)
        begins, counts = begins[rows, columns], (ends - begins)[rows, columns]
        until = np.cumsum(counts)
        total = int(until[-1]) if len(until) else 0
        for first in range(0, total, MOST_CANDIDATES):
            each = np.arange(first, min(first + MOST_CANDIDATES, total))
            slot = np.searchsorted(until, each, side="right")
            entries = begins[slot] + each - (until - counts)[slot]
            yield rows[slot], self._numbers[entries], self._hashes[entries]

    def _keys(self, hashes: Hashes) -> NDArray[np.int64]:
        return (hashes >> self._shift & np.uint64(KEYS - 1)).astype(np.int64)
