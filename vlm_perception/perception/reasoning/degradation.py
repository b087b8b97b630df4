# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Degradation levels: what is given up, in which order, when the rate cannot be kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What a level still provides."""

    caption: float = 1.0
    """Share of the longest caption, in tokens and in time."""
    all_questions: bool = True
    rate: float = 1.0
    """Share of the rate of ticks."""
    image: float = 1.0
    """Share of the sides of the image that a server is sent."""


LEVELS = (
    Effort(),
    Effort(caption=0.5),
    Effort(caption=0.5, all_questions=False, image=0.75),
    Effort(caption=0.5, all_questions=False, image=0.5, rate=0.5),
)
"""From full service down; each level gives up something more."""

WINDOW_S = 3.0
"""Window over which lost time is counted, and the shortest time at a level."""
DESCEND_SHARE = 1 / 3
"""Above this share of the window lost to late ticks, the next level is taken."""
CLIMB_SHARE = 0.05
"""The level above is tried again if it would have lost at most this share."""
HYSTERESIS_S = 6.0
"""Time at a level before the one above is tried; doubled whenever that was too early."""
LONGEST_HYSTERESIS_S = 96.0


class Degradation:
    """Steps down while ticks take longer than their period, and up again when they would fit.

    A tick that takes longer than the period delays the ones after it; that time is lost. One slow
    tick now and then, a key frame among repeats, loses little and changes nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full service.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._level = 0
        self._since = clock()
        self._hysteresis_s = HYSTERESIS_S
        self._climbed = False
        self._ticks: deque[tuple[float, float]] = deque()

    @property
    def level(self) -> int:
        """Index into LEVELS; 0 is full service."""
        return self._level

    @property
    def effort(self) -> Effort:
        """What this level provides."""
        return LEVELS[self._level]

    def record(self, seconds: float, period: float) -> None:
        """Record how long a tick took, and move by one level if necessary.

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
        if self._level + 1 < len(LEVELS) and self._lost(period, self._level) > DESCEND_SHARE:
            too_early = self._climbed and stayed < self._hysteresis_s
            longer = min(2 * self._hysteresis_s, LONGEST_HYSTERESIS_S)
            self._hysteresis_s = longer if too_early else HYSTERESIS_S
            self._move(self._level + 1, now)
        elif (
            self._level > 0
            and stayed >= self._hysteresis_s
            and self._lost(period, self._level - 1) <= CLIMB_SHARE
        ):
            self._move(self._level - 1, now)

    def _lost(self, period: float, level: int) -> float:
        """Share of the window by which its ticks exceeded the time that a level allows."""
        allowed = period / LEVELS[level].rate
        return sum(max(0.0, seconds - allowed) for _, seconds in self._ticks) / WINDOW_S

    def _move(self, level: int, now: float) -> None:
        self._climbed = level < self._level
        self._level, self._since = level, now
        self._ticks.clear()
