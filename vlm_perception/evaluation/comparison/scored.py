# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What one model did on a set of images, so that its figures follow for any weighting of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Scored(Protocol):
    """Results on images. A figure that cannot be told under a weighting is NaN there."""

    @property
    def images(self) -> Sequence[str]:
        """Names of the images, none twice, [N]."""

    def figures(self, weights: Array) -> Mapping[str, Array]:
        """Figures by name, [B] each, when image i counts `weights[b, i]` times; [B, N]."""


@dataclass(frozen=True)
class Counted:
    """Results of which every figure follows from sums over the images."""

    images: Sequence[str]
    counts: Array
    """[N, K]."""
    ratios: Callable[[Array], Mapping[str, Array]]
    """Figures, [B] each, from the sums over the images, [B, K]."""

    def figures(self, weights: Array) -> Mapping[str, Array]:
        """Figures under each weighting."""
        return self.ratios(weights @ self.counts)


@dataclass(frozen=True)
class Renamed:
    """Results whose figures get a longer name."""

    scored: Scored
    start: str
    """What stands before each."""

    @property
    def images(self) -> Sequence[str]:
        """As of the results."""
        return self.scored.images

    def figures(self, weights: Array) -> Mapping[str, Array]:
        """Figures under each weighting."""
        found = self.scored.figures(weights)
        return {f"{self.start}.{name}": value for name, value in found.items()}


def ratio(above: Array, below: Array) -> Array:
    """One sum over another; NaN where that is zero."""
    empty = np.full(np.shape(above), np.nan)
    return np.asarray(np.divide(above, below, out=empty, where=below != 0), np.float64)
