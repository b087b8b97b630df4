# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which images are near-duplicates of one that is kept.

Being near is not transitive: the images of a drive form a chain from its first to its last. So
images are compared with kept ones only, in the order of who should stay, and no group is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.hash_index import NONE, Hashes, HashIndex, distances

BLOCK = 1024

Progress = Callable[[int, int], None]
"""Is told how many more images were judged, and how many of them are near-duplicates."""
Gaps = NDArray[np.float64]
"""How far images are apart by a measure: the less, the nearer."""


class Measure(Protocol):
    """How far images are apart, and those of them that are kept."""

    limit: float
    """The greatest gap of near-duplicates."""

    def nearest(self, begin: int, end: int) -> tuple[NDArray[np.int32], Gaps]:
        """The nearest kept image to each of begin .. end, of several the one that was kept first.

        Returns:
            Numbers of kept images, counted as they were kept, and the gaps; NONE and any gap where
            none is within the limit.
        """
        ...

    def among(self, begin: int, end: int) -> Gaps:
        """The gaps between the images begin .. end, [N, N]."""
        ...

    def keep(self, places: NDArray[np.int32]) -> None:
        """Keep images, too."""
        ...


@dataclass(frozen=True)
class NearDuplicates:
    """What became of each image."""

    stays: NDArray[np.int32]
    """The place of the nearest kept image by the first measure by which one is near, of several
    the first; NONE where the image is kept itself."""
    gaps: Gaps
    """To that image."""
    measures: NDArray[np.int8]
    """The number of that measure."""


class HashMeasure:
    """The Hamming distance of hashes."""

    def __init__(self, hashes: Hashes, radius: int) -> None:
        """Take the hashes of all images, uint64 [N], those that should stay first."""
        self.limit = float(radius)
        self._hashes, self._index = hashes, HashIndex(radius)

    def nearest(self, begin: int, end: int) -> tuple[NDArray[np.int32], Gaps]:
        """See `Measure`."""
        numbers, found = self._index.nearest(self._hashes[begin:end])
        return numbers, found.astype(np.float64)

    def among(self, begin: int, end: int) -> Gaps:
        """See `Measure`."""
        block = self._hashes[begin:end]
        return distances(block[:, None], block[None, :]).astype(np.float64)

    def keep(self, places: NDArray[np.int32]) -> None:
        """See `Measure`."""
        self._index.add(self._hashes[places])


def find_near_duplicates(
    measures: Sequence[Measure], count: int, progress: Progress = lambda *_: None
) -> NearDuplicates:
    """For each image the kept one that it is near to.

    An image is kept where no kept one before it is near by any of the measures. This is exact: the
    same as if each were compared with all kept ones.

    Args:
        measures: in the order in which they are asked.
        count: of the images; those that should stay come first.
        progress: is called now and then.
    """
    kept_at: NDArray[np.int32] = np.empty(0, np.int32)
    stays = np.full(count, NONE, np.int32)
    found = NearDuplicates(stays, np.zeros(count), np.zeros(count, np.int8))
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        before = []
        for measure in measures:
            numbers, gaps = measure.nearest(begin, end)
            near = numbers != NONE
            numbers[near] = kept_at[numbers[near]]
            before.append((numbers, gaps))
        kept = _judge_among(begin, end, measures, before, found)
        for measure in measures:
            measure.keep(kept)
        kept_at = np.concatenate([kept_at, kept])
        progress(end - begin, end - begin - len(kept))
    return found


def _judge_among(
    begin: int,
    end: int,
    measures: Sequence[Measure],
    before: Sequence[tuple[NDArray[np.int32], Gaps]],
    found: NearDuplicates,
) -> NDArray[np.int32]:
    """Compare a block with itself, too; returns the places that are kept."""
    apart = [measure.among(begin, end) for measure in measures]
    kept: list[int] = []
    for place in range(end - begin):
        for number, measure in enumerate(measures):
            stays, gap = int(before[number][0][place]), float(before[number][1][place])
            if kept:
                to_kept = apart[number][place, kept]
                closest = int(np.argmin(to_kept))
                closer = stays == NONE or to_kept[closest] < gap
                if to_kept[closest] <= measure.limit and closer:
                    stays, gap = begin + kept[closest], float(to_kept[closest])
            if stays != NONE:
                at = begin + place
                found.stays[at], found.gaps[at], found.measures[at] = stays, gap, number
                break
        else:
            kept.append(place)
    return np.array(kept, np.int32) + np.int32(begin)
