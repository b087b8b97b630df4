# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The learned positions of a vision tower, for its own square of patches and for other grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """The position embeddings that a tower was trained with."""

    table: Tensor
    """[class tokens + side * side, W]; those of the class tokens come first."""
    class_tokens: int
    image_size: int
    """Pixels along each side of the square that the tower was built for."""
    patch: int
    """Pixels along each side of a patch."""
    resize: Callable[[int, int], Tensor]
    """The embeddings for a grid of (columns, rows), [1, tokens, W], by transformers' own code."""
    for_any_grid: bool = False
    """Whether the tower was trained on grids of every shape: then each of them is resized."""

    @property
    def side(self) -> int:
        """Patches along each side of the square.

        Pixels after the last whole patch (384 = 27 patches of 14 and 6 pixels) are never read.
        """
        return self.image_size // self.patch

    def fits(self, columns: int, rows: int) -> bool:
        """Whether the tower takes such a grid; most have exactly so many positions."""
        return self.for_any_grid or columns * rows + self.class_tokens == self.table.shape[0]

    def of_grid(self, columns: int, rows: int) -> Tensor:
        """Position embeddings of a grid of patches, [1, tokens, W].

        A grid with exactly as many patches as the tower has positions takes them as they are,
        whatever its shape: such a tower was trained that way. Others are resized.
        """
        if self.fits(columns, rows) and not self.for_any_grid:
            return self.table.unsqueeze(0)
        with torch.no_grad():
            return self.resize(columns, rows)

    def of_window(self, columns: int, rows: int) -> Tensor:
        """Position embeddings of the middle of the tower's own square, [1, tokens, W].

        Where an odd number of rows (columns) is left out, one more of them is below (on the right).
        Without pruning the result is that of the whole square with all other patches masked as
        keys. A tower for grids of any shape gets what it has for this one.
        """
        if self.for_any_grid:
            return self.of_grid(columns, rows)
        side = self.side
        top, left = (side - rows) // 2, (side - columns) // 2
        grid = self.table[self.class_tokens :].reshape(side, side, -1)
        band = grid[top : top + rows, left : left + columns].reshape(rows * columns, -1)
        return torch.cat([self.table[: self.class_tokens], band]).unsqueeze(0)
