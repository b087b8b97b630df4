# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The keys and values of an image, and of the text after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Added to the score of a token that must not be attended. Finite: a row of nothing but -inf
# gives NaN.
BLOCKED = np.float32(-1e9)


class Cache(Protocol):
    """Keys and values of tokens that were read; where they are kept is up to the decoder."""

    @property
    def length(self) -> int:
        """How many tokens."""
        ...


@dataclass(frozen=True)
class Prefix:
    """An image's keys and values; any number of branches may follow it."""

    cache: Cache
    room: int
    """Tokens that a branch may hold."""
    tower_s: float = 0.0
    """Seconds that the language model's own vision tower looked at the image, if it has one."""

    @property
    def length(self) -> int:
        """Tokens of the prefix."""
        return self.cache.length


def causal_inputs(
    embeds: NDArray[np.float32], past: NDArray[np.float32], rows: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """What the graph takes for tokens [T, W] after cached ones, [layers, 2, 1, heads, P, D].

    Args:
        embeds: the tokens; each sees the cached ones and those before it.
        past: keys and values of the cached tokens.
        rows: the tokens whose logits are wanted.
    """
    count, seen = len(embeds), past.shape[4]
    positions = np.arange(seen, seen + count, dtype=np.int64)
    return graph_inputs(embeds, past, positions, causal_mask(count), rows)


def graph_inputs(
    embeds: NDArray[np.float32],
    past: NDArray[np.float32],
    positions: NDArray[np.int64],
    mask: NDArray[np.float32],
    rows: Sequence[int] | NDArray[np.int64],
) -> dict[str, NDArray[Any]]:
    """What the graph takes where positions [T] and the mask between the tokens [T, T] are given."""
    count, seen = len(embeds), past.shape[4]
    scores = np.zeros((count, seen + count), np.float32)
    scores[:, seen:] = mask
    return {
        "inputs_embeds": embeds[np.newaxis],
        "past": past,
        "position_ids": positions[np.newaxis],
        "mask": scores[np.newaxis, np.newaxis],
        "logit_rows": np.array(rows, np.int64),
    }


def causal_mask(length: int) -> NDArray[np.float32]:
    """[length, length]: each token sees itself and those before it."""
    return np.triu(np.full((length, length), BLOCKED, np.float32), 1)
