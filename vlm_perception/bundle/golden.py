# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Compares what an engine gives with what was stored when the graph was exported."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.base import Array

TOKEN_INDEX = "token_index"
LEAST_COMMON = 0.75
"""Share of the kept tokens that an engine must share with the stored ones. Two tokens that weigh
nearly the same may change places when an engine rounds otherwise."""


class GoldenError(VlmPerceptionError):
    """An output is not what was stored; the message says by how much."""

    def __init__(self, output: str, detail: str) -> None:
        """Say which output it is, and what was found and allowed."""
        super().__init__(detail)
        self.output = output


def check_close(
    outputs: Mapping[str, Array],
    stored: Mapping[str, Array],
    *,
    absolute: float,
    relative: float,
) -> float:
    """Compare every number with the stored one, and return the largest difference.

    Raises:
        GoldenError: one differs by more than `absolute` and `relative` of its value.
    """
    worst = 0.0
    for name, value in outputs.items():
        difference = np.abs(value - stored[name])
        worst = max(worst, float(difference.max(initial=0.0)))
        # Written so that NaN fails.
        if not bool(np.all(difference <= absolute + relative * np.abs(stored[name]))):
            raise GoldenError(
                name,
                f"largest difference {difference.max():.3g}, allowed {absolute:g} + {relative:g} "
                "of the value",
            )
    return worst


def check_alike(outputs: Mapping[str, Array], stored: Mapping[str, Array], cosine: float) -> float:
    """Compare the directions of a quantized graph's vectors with the stored ones.

    Engines and processors sum and round INT8 products in their own ways, and a number next to the
    border of two steps falls on either side: single numbers differ by what a step is worth, and
    where tokens are pruned another token may be kept. The directions of the vectors hardly
    change, while those of another network have nothing to do with each other.

    Args:
        outputs: what the engine gave; tokens are compared where both kept them.
        stored: what was stored.
        cosine: what the mean cosine over an output's vectors (the last axis) must reach.

    Returns:
        The largest difference of a number.

    Raises:
        GoldenError: an output is further off.
    """
    ours = theirs = None
    if TOKEN_INDEX in stored:
        index = stored[TOKEN_INDEX]
        common, ours, theirs = np.intersect1d(outputs[TOKEN_INDEX], index, return_indices=True)
        if len(common) < LEAST_COMMON * len(index):
            raise GoldenError(TOKEN_INDEX, f"{len(common)} of {len(index)} match the stored ones")
    worst = 0.0
    for name in (name for name in stored if name != TOKEN_INDEX):
        value, expected = outputs[name], stored[name]
        # Tokens have an axis that the image as a whole has not.
        if ours is not None and theirs is not None and value.ndim == 3:
            value, expected = value[:, ours], expected[:, theirs]
        lengths = np.linalg.norm(value, axis=-1) * np.linalg.norm(expected, axis=-1)
        found = float(((value * expected).sum(axis=-1) / lengths).mean())
        # Written so that NaN fails.
        if not found >= cosine:
            raise GoldenError(name, f"mean cosine {found:.4f}, at least {cosine:g}")
        worst = max(worst, float(np.abs(value - expected).max(initial=0.0)))
    return worst
