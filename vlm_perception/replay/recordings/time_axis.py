# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded times as seconds on an axis that is worth drawing, whatever was done to the clock."""

from __future__ import annotations

LEAP_NS = 86_400 * 1_000_000_000
"""From one record to the next: a clock was set, or the recording was paused for a day."""


class TimeAxis:
    """Seconds from the first time on, without the leaps.

    So the axis is at most a day for each record, and what was recorded before and after a computer
    learned the time stays legible.
    """

    def __init__(self) -> None:
        """Begin with the first time that comes."""
        self.leaps: list[tuple[float, float]] = []
        """Where on the axis, and over how many seconds; negative ones lead back."""
        self._zero_ns: int | None = None
        self._last_ns = 0

    def seconds(self, time_ns: int) -> float:
        """The position of a time; 0 for those before the first one."""
        if self._zero_ns is None:
            self._zero_ns = self._last_ns = time_ns
        step_ns = time_ns - self._last_ns
        if abs(step_ns) > LEAP_NS:
            self.leaps.append((max(0, self._last_ns - self._zero_ns) * 1e-9, step_ns * 1e-9))
            self._zero_ns += step_ns
        self._last_ns = time_ns
        return max(0, time_ns - self._zero_ns) * 1e-9
