# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers read over the last analyses: noise is outvoted, an event leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.manifest import ReadoutSpec
from vlm_perception.perception.reasoning.answer_memory import (
    HORIZON,
    HORIZON_S,
    SLOTS,
    TRUST,
    AnswerMemory,
)
from vlm_perception.perception.vision.temporal_state import Attended, Evidence
from vlm_perception.types import Attribute

SECOND = 1_000_000_000
SCALE = 0.08
RAIN = ReadoutSpec(name="rain", choices=("no", "yes"))


def at(angle: float) -> Attended:
    event = np.array([np.cos(angle), np.sin(angle)], np.float32)
    return Attended(event, event, SCALE)


def seen(rain: float) -> Attended:
    """An event that stays the same, with a readout that holds rain for so likely."""
    readouts = (ReadoutSpec(name="road", choices=("a", "b", "c")), RAIN)
    values = np.log([0.2, 0.3, 0.5, 1.0 - rain, rain]).astype(np.float32)
    return replace(at(0.0), evidence=Evidence(readouts, values))


def said(yes: float, name: str = "rain") -> tuple[Attribute, ...]:
    return (Attribute(name, "yes" if yes > 0.5 else "no", ("no", "yes"), (1.0 - yes, yes)),)


def read(memory: AnswerMemory, angle: float = 0.0) -> tuple[str, float]:
    (answer,) = memory.read(at(angle))
    assert sum(answer.probabilities) == pytest.approx(1.0)
    assert answer.value == answer.choices[int(np.argmax(answer.probabilities))]
    return answer.value, answer.probabilities[1]


def test_one_wrong_answer_is_outvoted_until_it_is_confirmed() -> None:
    memory = AnswerMemory()
    assert memory.read(at(0.0)) == ()
    for tick, yes in enumerate((0.9, 0.8, 0.2)):
        memory.add(at(0.0), SECOND + tick * SECOND // 10, said(yes))
    value, probability = read(memory)
    assert value == "yes"
    assert 0.55 < probability < 1.9 / 3
    for tick in range(3, 8):
        memory.add(at(0.0), SECOND + tick * SECOND // 10, said(0.1))
    assert read(memory)[0] == "no"


def test_an_event_leaves_nothing_of_the_old_answer() -> None:
    memory = AnswerMemory()
    for tick in range(10):
        memory.add(at(0.0), SECOND + tick * SECOND // 10, said(0.95))
    memory.add(at(1.5), 2 * SECOND, said(0.1))
    assert read(memory, 1.5) == ("no", pytest.approx(0.1, abs=0.01))
    # What comes back is known already.
    assert read(memory, 0.0)[0] == "yes"


def test_old_answers_fade() -> None:
    memory = AnswerMemory()
    memory.add(at(0.0), SECOND, said(1.0))
    memory.add(at(0.0), round((1 + HORIZON_S) * SECOND), said(0.0))
    weight = np.exp(-1 - 1 / HORIZON**2)
    assert read(memory)[1] == pytest.approx(weight / (1 + weight))


@pytest.mark.parametrize("stamp_ns", [0, 2 * SECOND])
def test_without_a_stamp_or_with_other_questions_only_the_newest_counts(stamp_ns: int) -> None:
    memory = AnswerMemory()
    memory.add(at(0.0), SECOND, said(1.0))
    memory.add(at(0.0), stamp_ns, said(0.0, "rain" if stamp_ns == 0 else "fog"))
    assert read(memory)[1] == 0.0
    memory.reset()
    assert memory.read(at(0.0)) == ()


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(-3.0, 3.0)), min_size=1, max_size=60))
def test_the_answer_lies_between_those_remembered(steps: list[tuple[float, float]]) -> None:
    memory = AnswerMemory()
    for tick, (yes, angle) in enumerate(steps):
        memory.add(at(angle), SECOND + tick * SECOND // 10, said(yes))
    kept = [yes for yes, _ in steps[-SLOTS:]]
    assert min(kept) - 1e-6 <= read(memory, steps[-1][1])[1] <= max(kept) + 1e-6


def test_what_is_seen_since_brings_an_answer_up_to_date() -> None:
    memory = AnswerMemory()
    memory.add(seen(0.1), SECOND, said(0.2))
    (same,) = memory.read(seen(0.1))
    assert same.probabilities == pytest.approx((0.8, 0.2))
    (wet,) = memory.read(seen(0.9))
    odds = 0.25 * (9.0 / (1.0 / 9.0)) ** TRUST
    assert wet.value == "yes"
    assert wet.probabilities[1] == pytest.approx(odds / (1.0 + odds))
    # Each remembered answer by what was seen when it was given.
    memory.add(seen(0.9), 2 * SECOND, said(0.9))
    assert memory.read(seen(0.1))[0].value == "no"


@pytest.mark.parametrize("other", [said(0.2, "fog"), (replace(said(0.2)[0], choices=("N", "Y")),)])
def test_a_question_without_a_readout_stays_as_it_was_answered(
    other: tuple[Attribute, ...],
) -> None:
    memory = AnswerMemory()
    memory.add(seen(0.1), SECOND, other)
    assert memory.read(seen(0.9))[0].probabilities == pytest.approx((0.8, 0.2))
    memory.add(seen(0.1), SECOND, ())
    assert memory.read(seen(0.9)) == ()
