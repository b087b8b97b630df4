# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Percentiles of a stream of durations in constant memory."""

from __future__ import annotations

import math
from collections import Counter

SMALLEST_S = 1e-6
STEPS_PER_DECADE = 48
"""A percentile is off by 5 % at most."""


class Durations:
    """Counts durations in bins whose widths grow with them."""

    def __init__(self) -> None:
        """Begin without any."""
        self._bins: Counter[int] = Counter()
        self.count = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Take in a duration."""
        step = math.log10(max(seconds, SMALLEST_S) / SMALLEST_S) * STEPS_PER_DECADE
        self._bins[round(step)] += 1
        self.count += 1
        self.total_s += seconds

    def percentile(self, percent: float) -> float:
        """The duration in seconds at this percentile; 0 if there are none."""
        wanted, seen = math.ceil(self.count * percent / 100), 0
        for step in sorted(self._bins):
            seen += self._bins[step]
            if seen >= wanted:
                return SMALLEST_S * math.pow(10.0, step / STEPS_PER_DECADE)
        return 0.0
