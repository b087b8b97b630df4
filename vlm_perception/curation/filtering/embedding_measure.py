# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Exact search for near embeddings, by products of blocks of them.

Products in single precision choose the candidates, and double precision judges them: the result
depends neither on the library that multiplies nor on its threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.hash_index import NONE
from vlm_perception.curation.filtering.near_duplicates import Gaps

Rows = NDArray[np.float16]

KEPT_AT_A_TIME = 4096
PAIRS_AT_A_TIME = 4096
"""These two bound the memory."""
SINGLE_ERROR = 1e-4
"""More than a cosine of unit vectors in single precision is off, for up to 10^4 dimensions."""
DIGITS = 9
"""Of cosines: those after it may depend on the order of the sum."""


def cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cosines between two sets of unit vectors, [A, D] and [B, D] -> [A, B]."""
    return np.asarray(np.round(one @ other.T, DIGITS))


class EmbeddingMeasure:
    """The cosine of embeddings; a gap is its negative."""

    def __init__(self, stored: Rows, order: NDArray[np.intp], cosine: float) -> None:
        """Take the embeddings of all images.

        Args:
            stored: float16 [N, D], perhaps in a file; they need not be of length 1.
            order: their order, those that should stay first.
            cosine: the least of near-duplicates.
        """
        self.limit = -cosine
        self._stored, self._order = stored, order
        self._kept: NDArray[np.int32] = np.empty(0, np.int32)

    def nearest(self, begin: int, end: int) -> tuple[NDArray[np.int32], Gaps]:
        """See `Measure`."""
        queries = self._unit(self._order[begin:end])
        single = queries.astype(np.float32)
        numbers, gaps = np.full(end - begin, NONE, np.int32), np.full(end - begin, np.inf)
        for first in range(0, len(self._kept), KEPT_AT_A_TIME):
            kept = self._unit(self._order[self._kept[first : first + KEPT_AT_A_TIME]])
            near = single @ kept.astype(np.float32).T
            places, columns = np.nonzero(near >= -self.limit - SINGLE_ERROR)
            for some in range(0, len(places), PAIRS_AT_A_TIME):
                at, to = (each[some : some + PAIRS_AT_A_TIME] for each in (places, columns))
                exact = -np.round(np.einsum("nd,nd->n", queries[at], kept[to]), DIGITS)
                _lower(numbers, gaps, at, to + first, exact)
        numbers[gaps > self.limit] = NONE
        return numbers, gaps

    def among(self, begin: int, end: int) -> Gaps:
        """See `Measure`."""
        block = self._unit(self._order[begin:end])
        return -cosines(block, block)

    def keep(self, places: NDArray[np.int32]) -> None:
        """See `Measure`."""
        self._kept = np.concatenate([self._kept, places])

    def _unit(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return unit(self._stored[rows])


def unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows [N, D] in double precision, of length 1."""
    exact = rows.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))


def _lower(
    numbers: NDArray[np.int32],
    gaps: Gaps,
    at: NDArray[np.intp],
    to: NDArray[np.intp],
    found: Gaps,
) -> None:
    """Take smaller gaps over; of equal ones the lowest number stays.

    Args:
        numbers: so far, by query.
        gaps: likewise.
        at: queries.
        to: the number of a kept image for each.
        found: the gap between the two.
    """
    best = np.lexsort((to, found, at))
    first = best[np.unique(at[best], return_index=True)[1]]
    lower = found[first] < gaps[at[first]]
    chosen = first[lower]
    numbers[at[chosen]], gaps[at[chosen]] = to[chosen], found[chosen]
