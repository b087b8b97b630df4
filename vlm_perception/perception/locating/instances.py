# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Several things of a kind in one score map are told apart by how deep the valley between them is.

Peaks are merged by their persistence (Edelsbrunner, Letscher and Zomorodian, Topological
persistence and simplification, 2002; as clustering: Chazal et al., ToMATo, 2013): one that rises
above the pass to a higher peak by less than a given height belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Instance:
    """A peak of a score map with the cells that belong to it."""

    peak: float
    cells: NDArray[np.intp]
    """[cells, 2], row and column."""


def find_instances(
    scores: NDArray[np.float32], threshold: float, persistence: float
) -> list[Instance]:
    """Split what lies above a threshold into instances, the highest peak first.

    Args:
        scores: [rows, columns].
        threshold: lower cells belong to none.
        persistence: the least height of a peak above the pass to a higher one.
    """
    cells = np.argwhere(scores >= threshold)
    values = scores[cells[:, 0], cells[:, 1]]
    order = np.argsort(-values, kind="stable")
    cells, values = cells[order], values[order]
    # A frame of cells without an owner saves the neighbours' bounds.
    owner = np.full((scores.shape[0] + 2, scores.shape[1] + 2), -1, np.intp)
    parent: list[int] = []

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for index, (row, column) in enumerate(cells):
        beside = owner[row : row + 3, column : column + 3]
        # Cells come in falling order: the root with the lowest index is the highest peak.
        roots = sorted({root(int(other)) for other in beside[beside >= 0]})
        parent.append(roots[0] if roots else index)
        for lower in roots[1:]:
            if values[lower] - values[index] < persistence:
                parent[lower] = roots[0]
        owner[row + 1, column + 1] = index
    belongs = np.array([root(index) for index in range(len(cells))], np.intp)
    return [
        Instance(float(values[peak]), cells[belongs == peak])
        for peak in np.unique(belongs).tolist()
    ]
