# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The decoder's inputs where all lengths are fixed: what is not used is padded and masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.engines.base import Array

BLOCKED = -30000.0
"""Least score of a mask: sums of scores stay in the range of FP16, which ends at -65504."""


@dataclass(frozen=True)
class Piece:
    """Tokens that one program reads at once."""

    embeds: NDArray[np.float32]
    positions: NDArray[Any]
    scores: NDArray[np.float32]
    """[T, cached + T]"""
    rows: NDArray[np.int64]

    def padded(self, length: int, capacity: int, filled: int, places: int) -> dict[str, Array]:
        """The inputs of a program of `length` tokens after a cache of `capacity`."""
        count, width = self.embeds.shape
        embeds = np.zeros((1, length, width), np.float32)
        embeds[0, :count] = self.embeds
        positions = np.zeros((1, length), np.int64)
        positions[0, :count] = self.positions
        mask = np.full((length, capacity + length), BLOCKED, np.float32)
        mask[:count, :filled] = np.maximum(self.scores[:, :filled], BLOCKED)
        mask[:count, capacity : capacity + count] = np.maximum(self.scores[:, filled:], BLOCKED)
        # A row that sees nothing would be a mean over everything, garbage included.
        idle = np.arange(count, length)
        mask[idle, capacity + idle] = 0.0
        chosen = np.zeros(places, np.int64)
        chosen[: len(self.rows)] = self.rows
        return {
            "inputs_embeds": embeds,
            "position_ids": positions,
            "mask": mask[np.newaxis, np.newaxis],
            "logit_rows": chosen,
        }


def causal_scores(length: int) -> NDArray[np.float32]:
    """[length, length], added to the scores: each token sees itself and those before it."""
    return np.triu(np.full((length, length), BLOCKED, np.float32), 1)
