# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The ladder of degradation on a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.reasoning.degradation import (
    HYSTERESIS_S,
    LEVELS,
    LONGEST_HYSTERESIS_S,
    WINDOW_S,
    Degradation,
)

PERIOD = 0.1
LAST = len(LEVELS) - 1


class Machine:
    """Ticks on simulated time: the next begins when the last has ended and its time has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.degradation = Degradation(lambda: self.now)
        self.moves: list[tuple[float, int]] = []

    def tick(self, seconds: float) -> None:
        level = self.degradation.level
        began, self.now = self.now, self.now + seconds
        self.degradation.record(seconds, PERIOD)
        if self.degradation.level != level:
            self.moves.append((self.now, self.degradation.level))
        self.now = max(self.now, began + PERIOD / self.degradation.effort.rate)

    def run(self, seconds: float, *costs: float) -> None:
        """Tick for so long; costs are those of a tick on each level, the last for those below."""
        end = self.now + seconds
        while self.now < end:
            self.tick(costs[min(self.degradation.level, len(costs) - 1)])


def test_the_levels_give_up_one_thing_after_another() -> None:
    assert LEVELS[0].caption == LEVELS[0].rate == 1.0 and LEVELS[0].all_questions
    for above, below in pairwise(LEVELS):
        assert above != below
        assert below.caption <= above.caption and below.rate <= above.rate
        assert below.all_questions <= above.all_questions


def test_an_overload_is_answered_rung_by_rung_down_to_the_last() -> None:
    machine = Machine()
    machine.run(60.0, 0.4)
    assert [level for _, level in machine.moves] == list(range(1, LAST + 1))
    assert all(WINDOW_S <= at <= (level + 1) * WINDOW_S + 1.0 for at, level in machine.moves)


def test_it_stays_where_the_rate_can_be_held() -> None:
    machine = Machine()
    machine.run(HYSTERESIS_S, 0.2, 0.09)
    assert machine.degradation.level == 1


def test_it_climbs_back_when_the_load_is_gone() -> None:
    machine = Machine()
    machine.run(30.0, 0.4)
    assert machine.degradation.level == LAST
    machine.run(LAST * 2 * HYSTERESIS_S, 0.02)
    assert machine.degradation.level == 0


def test_a_rung_that_was_tried_too_early_is_tried_ever_more_seldom() -> None:
    machine = Machine()
    machine.run(600.0, 0.2, 0.05)
    climbs = [at for at, level in machine.moves if level == 0]
    waits = [later - earlier for earlier, later in pairwise(climbs)]
    assert all(later > earlier - 1.0 for earlier, later in pairwise(waits))
    assert waits[0] < 4 * HYSTERESIS_S and waits[-1] >= LONGEST_HYSTERESIS_S
    assert len(machine.moves) < 20


def test_the_hysteresis_is_reset_once_a_recovery_has_held() -> None:
    machine = Machine()
    machine.run(300.0, 0.2, 0.05)
    machine.run(2 * LONGEST_HYSTERESIS_S, 0.05)
    machine.run(WINDOW_S + 1.0, 0.2, 0.05)
    machine.moves.clear()
    machine.run(HYSTERESIS_S + 1.0, 0.05)
    assert [level for _, level in machine.moves] == [0]


def test_a_slow_key_frame_among_repeats_changes_nothing() -> None:
    machine = Machine()
    for _ in range(30):
        machine.tick(0.5)
        machine.run(2.0, 0.002)
    assert not machine.moves


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.5, 20.0)), max_size=12))
def test_it_moves_by_one_level_and_no_faster_than_its_window(
    loads: list[tuple[float, float]],
) -> None:
    machine = Machine()
    for cost, seconds in loads:
        machine.run(seconds, cost)
    times = [0.0, *(at for at, _ in machine.moves)]
    levels = [0, *(level for _, level in machine.moves)]
    assert all(0 <= level <= LAST for level in levels)
    for index in range(1, len(levels)):
        assert abs(levels[index] - levels[index - 1]) == 1
        assert times[index] - times[index - 1] >= WINDOW_S
    machine.run(LAST * 2 * LONGEST_HYSTERESIS_S, PERIOD / 2)
    assert machine.degradation.level == 0
