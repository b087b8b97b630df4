# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The keys and values of an image, and of what is written behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Added to the score of a token that must not be attended. Finite: a row of nothing but -inf
# gives NaN, and TensorRT's FP16 stream clips it anyway.
BLOCKED = np.float32(-1e9)


@dataclass(frozen=True)
class Prefix:
    """An image's keys and values; any number of branches may stand behind it."""

    keys_values: NDArray[np.float32]
    """[layers, 2, 1, heads, P, D]"""
    room: int
    """Tokens that a branch may hold."""

    @property
    def length(self) -> int:
        """Tokens of the prefix."""
        return int(self.keys_values.shape[4])


class Branch:
    """A prefix with the keys and values of what is written behind it."""

    def __init__(self, prefix: Prefix, room: int) -> None:
        """Begin behind a prefix; at most `room` tokens follow."""
        shape = list(prefix.keys_values.shape)
        self.length = shape[4]
        shape[4] += room
        self._cache = np.zeros(shape, np.float32)
        self._cache[:, :, :, :, : self.length] = prefix.keys_values

    def past(self) -> NDArray[np.float32]:
        """What has been cached so far."""
        return self._cache[:, :, :, :, : self.length]

    def append(self, keys_values: NDArray[np.float32]) -> None:
        """Write keys and values behind those that are there."""
        end = self.length + keys_values.shape[4]
        self._cache[:, :, :, :, self.length : end] = keys_values
        self.length = end


def causal_inputs(
    embeds: NDArray[np.float32], past: NDArray[np.float32], rows: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """What the decoder takes for tokens [1, T, W] behind cached ones, [layers, 2, 1, heads, P, D].

    Args:
        embeds: the tokens; each sees the cached ones and those before it.
        past: keys and values of the cached tokens.
        rows: the tokens whose logits are wanted.
    """
    count, seen = embeds.shape[1], past.shape[4]
    mask = np.zeros((count, seen + count), np.float32)
    mask[:, seen:] = causal_mask(count)
    return {
        "inputs_embeds": embeds,
        "past": past,
        "position_ids": np.arange(seen, seen + count, dtype=np.int64)[np.newaxis],
        "mask": mask[np.newaxis, np.newaxis],
        "logit_rows": np.array(rows, np.int64),
    }


def causal_mask(length: int) -> NDArray[np.float32]:
    """[length, length]: each token sees itself and those before it."""
    return np.triu(np.full((length, length), BLOCKED, np.float32), 1)
