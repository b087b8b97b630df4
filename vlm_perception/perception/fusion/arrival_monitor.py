# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Learns the rate of a stream, and so after which silence it is missing."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import median

KEPT = 33
"""Window: number of arrivals that are considered."""
LEARNED = 9
"""With fewer arrivals the rate is unknown."""
LEAST_S = 0.3
"""Shorter silences never count, however fast the stream: the machine may be busy."""
IN_MEDIANS, IN_LONGEST = 4.0, 1.5
"""A stream is missing after this many median intervals and this many of the longest one."""


class ArrivalMonitor:
    """Monitors the arrivals of a stream, by their monotonic times in seconds."""

    def __init__(self) -> None:
        """Nothing has arrived."""
        self._arrivals: deque[float] = deque(maxlen=KEPT)
        self.gone = False
        """Whether the publisher is known to be gone; an arrival resets it."""

    def arrived(self, now_s: float) -> None:
        """Record an arrival. After a silence the rate is re-learned: it may have changed."""
        if self._arrivals and now_s - self._arrivals[-1] > self.missing_after(float("inf")):
            self._arrivals.clear()
        self._arrivals.append(now_s)
        self.gone = False

    def silence(self, now_s: float) -> float:
        """Return the seconds since the last arrival; infinite before the first."""
        return max(0.0, now_s - self._arrivals[-1]) if self._arrivals else float("inf")

    def missing_after(self, longest_s: float) -> float:
        """Return the silence in seconds after which something is missing.

        Args:
            longest_s: the answer as long as the rate is not known, and never exceeded.
        """
        if len(self._arrivals) < LEARNED:
            return longest_s
        intervals = [after - before for before, after in pairwise(tuple(self._arrivals))]
        usual = max(LEAST_S, IN_MEDIANS * median(intervals), IN_LONGEST * max(intervals))
        return min(longest_s, usual)

    def missing(self, now_s: float, longest_s: float) -> bool:
        """Whether the stream is silent for longer than it should be."""
        return self.gone or self.silence(now_s) > self.missing_after(longest_s)

    def reset(self) -> None:
        """Forget all arrivals."""
        self._arrivals.clear()
        self.gone = False
