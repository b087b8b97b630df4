# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The ladder of degradation on a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.reasoning.degradation import (
    LONGEST_PATIENCE_S,
    PATIENCE_S,
    RUNGS,
    WINDOW_S,
    Ladder,
)

PERIOD = 0.1
LAST = len(RUNGS) - 1


class Machine:
    """Ticks on simulated time: the next begins when the last has ended and its time has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ladder = Ladder(lambda: self.now)
        self.moves: list[tuple[float, int]] = []

    def tick(self, seconds: float) -> None:
        rung = self.ladder.rung
        began, self.now = self.now, self.now + seconds
        self.ladder.record(seconds, PERIOD)
        if self.ladder.rung != rung:
            self.moves.append((self.now, self.ladder.rung))
        self.now = max(self.now, began + PERIOD / self.ladder.effort.rate)

    def run(self, seconds: float, *costs: float) -> None:
        """Tick for so long; costs are those of a tick on each rung, the last for those below."""
        end = self.now + seconds
        while self.now < end:
            self.tick(costs[min(self.ladder.rung, len(costs) - 1)])


def test_the_rungs_give_up_one_thing_after_another() -> None:
    assert RUNGS[0].caption == RUNGS[0].rate == 1.0 and RUNGS[0].all_questions
    for above, below in pairwise(RUNGS):
        assert above != below
        assert below.caption <= above.caption and below.rate <= above.rate
        assert below.all_questions <= above.all_questions


def test_an_overload_is_answered_rung_by_rung_down_to_the_last() -> None:
    machine = Machine()
    machine.run(60.0, 0.4)
    assert [rung for _, rung in machine.moves] == list(range(1, LAST + 1))
    assert all(WINDOW_S <= at <= (rung + 1) * WINDOW_S + 1.0 for at, rung in machine.moves)


def test_it_stays_where_the_rate_can_be_held() -> None:
    machine = Machine()
    machine.run(PATIENCE_S, 0.2, 0.09)
    assert machine.ladder.rung == 1


def test_it_climbs_back_when_the_load_is_gone() -> None:
    machine = Machine()
    machine.run(30.0, 0.4)
    assert machine.ladder.rung == LAST
    machine.run(LAST * 2 * PATIENCE_S, 0.02)
    assert machine.ladder.rung == 0


def test_a_rung_that_was_tried_too_early_is_tried_ever_more_seldom() -> None:
    machine = Machine()
    machine.run(600.0, 0.2, 0.05)
    climbs = [at for at, rung in machine.moves if rung == 0]
    waits = [later - earlier for earlier, later in pairwise(climbs)]
    assert all(later > earlier - 1.0 for earlier, later in pairwise(waits))
    assert waits[0] < 4 * PATIENCE_S and waits[-1] >= LONGEST_PATIENCE_S
    assert len(machine.moves) < 20


def test_patience_is_forgotten_once_a_climb_has_held() -> None:
    machine = Machine()
    machine.run(300.0, 0.2, 0.05)
    machine.run(2 * LONGEST_PATIENCE_S, 0.05)
    machine.run(WINDOW_S + 1.0, 0.2, 0.05)
    machine.moves.clear()
    machine.run(PATIENCE_S + 1.0, 0.05)
    assert [rung for _, rung in machine.moves] == [0]


def test_a_slow_key_frame_among_repeats_changes_nothing() -> None:
    machine = Machine()
    for _ in range(30):
        machine.tick(0.5)
        machine.run(2.0, 0.002)
    assert not machine.moves


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.5, 20.0)), max_size=12))
def test_it_moves_by_one_rung_and_no_faster_than_its_window(
    loads: list[tuple[float, float]],
) -> None:
    machine = Machine()
    for cost, seconds in loads:
        machine.run(seconds, cost)
    times = [0.0, *(at for at, _ in machine.moves)]
    rungs = [0, *(rung for _, rung in machine.moves)]
    assert all(0 <= rung <= LAST for rung in rungs)
    for index in range(1, len(rungs)):
        assert abs(rungs[index] - rungs[index - 1]) == 1
        assert times[index] - times[index - 1] >= WINDOW_S
    machine.run(LAST * 2 * LONGEST_PATIENCE_S, PERIOD / 2)
    assert machine.ladder.rung == 0
