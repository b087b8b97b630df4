# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The ladder of degradation: what is given up, in which order, when the rate cannot be held."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What a rung still gives."""

    caption: float = 1.0
    """Share of the longest caption, in tokens and in time."""
    all_questions: bool = True
    rate: float = 1.0
    """Share of the rate of ticks."""


RUNGS = (
    Effort(),
    Effort(caption=0.5),
    Effort(caption=0.5, all_questions=False),
    Effort(caption=0.5, all_questions=False, rate=0.5),
)
"""From full service downwards; each rung gives up something more."""

WINDOW_S = 3.0
"""What was lost is counted over so many seconds, and at least so long a rung is tried."""
DESCEND_SHARE = 1 / 3
"""Share of the window that ticks ran over their time, above which the next rung is taken."""
CLIMB_SHARE = 0.05
"""Share that they would have run over on the rung above, up to which it is tried again."""
PATIENCE_S = 6.0
"""Time on a rung before the one above is tried; doubled whenever that was too early."""
LONGEST_PATIENCE_S = 96.0


class Ladder:
    """Steps down while ticks take longer than their period, and up again when they would fit.

    A tick that takes longer than the period delays those behind it; the time by which it does is
    lost. One slow tick now and then, a key frame among repeats, loses little and changes nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full service.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._rung = 0
        self._since = clock()
        self._patience = PATIENCE_S
        self._climbed = False
        self._ticks: deque[tuple[float, float]] = deque()

    @property
    def rung(self) -> int:
        """Index into RUNGS; 0 is full service."""
        return self._rung

    @property
    def effort(self) -> Effort:
        """What this rung gives."""
        return RUNGS[self._rung]

    def record(self, seconds: float, period: float) -> None:
        """Take in how long a tick took, and move by one rung where that is due.

        Args:
            seconds: from the beginning of the tick's work to its end.
            period: from tick to tick at full service.
        """
        now = self._clock()
        self._ticks.append((now, seconds))
        while self._ticks[0][0] < now - WINDOW_S:
            self._ticks.popleft()
        stayed = now - self._since
        if stayed < WINDOW_S:
            return
        if self._rung + 1 < len(RUNGS) and self._lost(period, self._rung) > DESCEND_SHARE:
            too_early = self._climbed and stayed < self._patience
            longer = min(2 * self._patience, LONGEST_PATIENCE_S)
            self._patience = longer if too_early else PATIENCE_S
            self._move(self._rung + 1, now)
        elif (
            self._rung > 0
            and stayed >= self._patience
            and self._lost(period, self._rung - 1) <= CLIMB_SHARE
        ):
            self._move(self._rung - 1, now)

    def _lost(self, period: float, rung: int) -> float:
        """Share of the window that the ticks in it ran over the time that a rung allows."""
        allowed = period / RUNGS[rung].rate
        return sum(max(0.0, seconds - allowed) for _, seconds in self._ticks) / WINDOW_S

    def _move(self, rung: int, now: float) -> None:
        self._climbed = rung < self._rung
        self._rung, self._since = rung, now
        self._ticks.clear()
