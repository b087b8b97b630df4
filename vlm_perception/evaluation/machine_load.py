# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the machine was quiet while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from vlm_perception.rosgraph.process_usage import processor_ticks

MOST_PERCENT = 5.0
"""Of all cores; a machine that others use more than this is called loaded."""
BEFORE_S = 2.0

Reading = tuple[float, float, float]
"""Seconds so far: idle and all, of all cores together, and those of this process and the ones that
it started and that have ended."""


@dataclass(frozen=True)
class Load:
    """What other processes took of all cores, in percent; time stolen by a host counts, too."""

    before: float
    during: float

    @property
    def quiet(self) -> bool:
        """Whether figures that were measured under this load may be believed."""
        return max(self.before, self.during) <= MOST_PERCENT

    def verdict(self) -> str:
        """Whether the figures hold, in one sentence."""
        measured = (
            f"other processes took {self.before:.1f} % of all cores before and {self.during:.1f} % "
            f"during the measurement"
        )
        if self.quiet:
            return f"valid: {measured}"
        return (
            f"NOT valid: {measured}, and the figures hold up to {MOST_PERCENT:g} %; close other "
            "programs and measure again"
        )

    @property
    def style(self) -> str:
        """Of the verdict on a console."""
        return "green" if self.quiet else "red"

    def as_json(self) -> dict[str, float]:
        """The same as JSON keys."""
        return {
            "others_before_percent": round(self.before, 1),
            "others_during_percent": round(self.during, 1),
            "most_percent": MOST_PERCENT,
        }


def read_processor() -> Reading:
    """Read /proc/stat, and this process's own time."""
    idle, total = processor_ticks()
    per_s = os.sysconf("SC_CLK_TCK")
    return idle / per_s, total / per_s, sum(os.times()[:4])


class LoadMeter:
    """Watches the machine before and during a measurement that runs in this process."""

    def __init__(
        self,
        read: Callable[[], Reading] = read_processor,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at the machine for two seconds, in which this process does nothing."""
        self._read = read
        start = read()
        sleep(BEFORE_S)
        self._start = read()
        self._before = others(start, self._start)

    def load(self) -> Load:
        """What others took before and since."""
        return Load(self._before, others(self._start, self._read()))


def others(start: Reading, end: Reading) -> float:
    """Share of all cores' time between two readings that other processes took, in percent."""
    idle, total, own = (after - before for before, after in zip(start, end, strict=True))
    return max(0.0, 100 * (total - idle - own) / total) if total > 0 else 0.0
