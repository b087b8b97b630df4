# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A server that fails is left alone, tried by one request at a time, and taken up again."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vlm_perception.perception.served.circuit import (
    FAILURES,
    LONGEST_S,
    LONGEST_WAIT_S,
    SHORTEST_S,
    Circuit,
)
from vlm_perception.perception.served.errors import HARMLESS, LASTING, Fault, ServedError

PASSING = [Fault.REFUSED, Fault.SLOW, Fault.CUT]


class Requests(RuleBasedStateMachine):
    """Requests that begin and end in any order, while time passes."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.circuit = Circuit(lambda: self.now)
        self.under_way = []
        self.tried = -LONGEST_WAIT_S

    @rule(seconds=st.floats(0.0, 2 * LONGEST_S))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def begin(self):
        was_open = bool(self.circuit.issue)
        with suppress(ServedError):
            trial = self.circuit.admit()
            assert trial == was_open
            if trial:
                assert not any(self.under_way), "one trial at a time"
                assert self.now - self.tried >= SHORTEST_S
            self.under_way.append(trial)

    @rule(data=st.data())
    def end(self, data):
        if not self.under_way:
            return
        trial = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        fault = data.draw(st.sampled_from([None, *PASSING, *LASTING, *HARMLESS]))
        if fault is None:
            self.circuit.succeeded()
            self.under_way = [False] * len(self.under_way)
            assert not self.circuit.issue
        else:
            was_open = bool(self.circuit.issue)
            self.circuit.failed(ServedError(fault, fault.value), trial=trial)
            self.tried = self.now if trial and fault not in HARMLESS else self.tried
            assert bool(self.circuit.issue) >= (was_open or fault in LASTING)

    @invariant()
    def it_is_tried_again_by_itself(self):
        if self.circuit.issue and not any(self.under_way):
            before, self.now = self.now, self.now + LONGEST_S
            assert self.circuit.admit()
            self.circuit.abandoned(trial=True)
            self.now = before


Requests.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_requests_in_any_order = Requests.TestCase


def test_a_few_failures_in_a_row_open_it_and_one_success_closes_it():
    now = [0.0]
    circuit = Circuit(lambda: now[0])
    for count in range(FAILURES):
        assert not circuit.issue, count
        circuit.admit()
        circuit.failed(ServedError(Fault.CUT, "it broke off"), trial=False)
    assert circuit.issue == "it broke off"
    with pytest.raises(ServedError, match="it broke off") as caught:
        circuit.admit()
    assert caught.value.fault is Fault.OPEN
    pauses = []
    for _ in range(8):
        began = now[0]
        while circuit.issue:
            now[0] += 0.125
            with suppress(ServedError):
                assert circuit.admit()
                break
        pauses.append(now[0] - began)
        circuit.failed(ServedError(Fault.CUT, "it broke off"), trial=True)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (SHORTEST_S, LONGEST_S)
    now[0] += LONGEST_S
    assert circuit.admit()
    circuit.succeeded()
    assert not circuit.issue
    assert not circuit.admit()


def test_a_server_that_asks_for_a_pause_gets_it_up_to_a_limit():
    for asked, given in ((20.0, 20.0), (9e9, LONGEST_WAIT_S)):
        now = [0.0]
        circuit = Circuit(lambda now=now: now[0])
        circuit.failed(ServedError(Fault.RATE, "too often", wait_s=asked), trial=circuit.admit())
        now[0] = given - 0.01
        with pytest.raises(ServedError):
            circuit.admit()
        now[0] = given
        assert circuit.admit()
