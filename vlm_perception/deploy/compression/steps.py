# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of symmetric quantization, and the ranges that calibration gives them for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LEAST_STEP = 2.0**-14
"""Below it FP16 loses digits."""
CLIP_SHARES = np.linspace(0.1, 1.0, 91)
"""Of the largest magnitude: the ranges among which the least squared error is looked for."""

Method = Literal["percentile", "min-max", "mse"]


def largest_code(bits: int) -> int:
    """The largest integer of a symmetric code of so many bits."""
    return (1 << (bits - 1)) - 1


def symmetric_steps(largest: NDArray[Any], bits: int = 8) -> NDArray[np.float32]:
    """Step sizes of symmetric quantization that FP16 represents exactly.

    Args:
        largest: the largest magnitudes to represent, of any shape.
        bits: of the integers.

    Returns:
        For each the smallest such step with which it does not overflow, at least LEAST_STEP.
    """
    exact = np.maximum(largest / largest_code(bits), LEAST_STEP)
    half = exact.astype(np.float16)
    up = np.nextafter(half, np.float16(np.inf))
    return np.where(half < exact, up, half).astype(np.float32)


@dataclass(frozen=True)
class PointSteps:
    """Of a place that is quantized."""

    input: float
    """Value of one unit of the input's integers."""
    range: float
    """Largest magnitude of the input that is not cut off."""
    weight: NDArray[np.float32] | None
    """Value of one unit of the weight's integers, for each output channel; None: there is no
    weight."""


@dataclass(frozen=True)
class Spread:
    """How the values of a tensor are spread."""

    counts: NDArray[np.int64]
    """[bins]."""
    edges: NDArray[Any]
    """[bins + 1], ascending."""
    least: float
    most: float

    @property
    def largest(self) -> float:
        """Magnitude."""
        return max(abs(self.least), abs(self.most))

    def range(self, method: Method, percentile: float, bits: int) -> float:
        """Magnitude up to which values are represented; larger ones are cut off.

        Args:
            method: `percentile` cuts off half of the rest on each side; `min-max` nothing; `mse` is
                that of the least squared error of all values, among CLIP_SHARES of the largest.
            percentile: share of the values that is represented, in percent.
            bits: of the integers.
        """
        if method == "min-max":
            return self.largest
        if method == "mse":
            return self._of_least_error(bits)
        cumulated = np.cumsum(self.counts / self.counts.sum())
        cut = (100.0 - percentile) / 200.0
        low, high = self.edges[np.searchsorted(cumulated, (cut, 1.0 - cut))]
        return float(max(abs(max(low, self.least)), abs(min(high, self.most))))

    def _of_least_error(self, bits: int) -> float:
        values = (self.edges[:-1] + self.edges[1:]) / 2
        ranges = CLIP_SHARES * self.largest
        steps = symmetric_steps(ranges, bits)
        most = largest_code(bits)
        codes = np.clip(np.rint(values / steps[:, np.newaxis]), -most, most)
        errors = np.square(codes * steps[:, np.newaxis] - values) @ self.counts
        return float(ranges[errors.argmin()])


def weight_steps(
    weight: NDArray[np.float32], axis: int, method: Method, bits: int
) -> NDArray[np.float32]:
    """A step for each output channel of a weight matrix.

    Args:
        weight: two-dimensional.
        axis: the one that counts the outputs.
        method: with `mse` the largest weights are cut off where that is better for the others; else
            every weight is represented.
        bits: of the integers.
    """
    rows = np.moveaxis(weight, axis, 0)
    largest = np.abs(rows).max(axis=1)
    best = symmetric_steps(largest, bits)
    if method != "mse":
        return best
    least = _row_errors(rows, best, bits)
    for share in CLIP_SHARES[::-1]:
        steps = symmetric_steps(largest * share, bits)
        errors = _row_errors(rows, steps, bits)
        best = np.where(errors < least, steps, best)
        least = np.minimum(errors, least)
    return best


def _row_errors(
    rows: NDArray[np.float32], steps: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    most = largest_code(bits)
    codes = np.clip(np.rint(rows / steps[:, np.newaxis]), -most, most)
    return np.asarray(np.square(codes * steps[:, np.newaxis] - rows).sum(axis=1))
