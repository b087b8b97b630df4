# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The answers of the last analyses, read together by attention from the present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.temporal import Attended
from vlm_perception.types import Attribute

NANOSECONDS = 1e-9

SLOTS = 12
"""Analyses that are remembered."""
HORIZON = 2.5
"""Analyses back at which the weight is 1/e of the newest one's; it falls with the square. So many
outvote noise, and what drift has not shown is believed after half as many."""
HORIZON_S = 4.0
"""The same for the time between them: analyses may be rare."""

TEMPERATURE_IN_SCALES = 1.25
"""Distance of two events whose answers count for each other by 1/e, in units of their scale."""


class AnswerMemory:
    """What was answered at the last key frames, each under the event embedding it was answered of.

    The present event is the query, those of the key frames are the keys, and the values are the
    probabilities of the choices: a single answer that the noise turned over is outvoted by its
    neighbours, and what was answered before something happened has no vote after it.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._newest: tuple[Attribute, ...] = ()
        self._count = 0
        self._stamps_ns = np.zeros(SLOTS, np.int64)
        self._events = np.zeros((SLOTS, 0), np.float32)
        self._values = np.zeros((SLOTS, 0))

    def reset(self) -> None:
        """Forget everything."""
        self._newest, self._count = (), 0

    def add(self, event: NDArray[np.float32], stamp_ns: int, said: tuple[Attribute, ...]) -> None:
        """Remember what was said of a frame.

        Other questions than before clear the memory, and so does an unknown stamp, now or before:
        nothing is known then of how far the past counts.

        Args:
            event: [E], of the frame.
            stamp_ns: its time; 0 if unknown.
            said: the answers.
        """
        values = [value for each in said for value in each.probabilities]
        last_ns = self._stamps_ns[(self._count - 1) % SLOTS] if self._count else 0
        if _layout(said) != _layout(self._newest) or not stamp_ns or not last_ns:
            self._count = 0
            self._events = np.zeros((SLOTS, len(event)), np.float32)
            self._values = np.zeros((SLOTS, len(values)))
        slot = self._count % SLOTS
        self._events[slot], self._stamps_ns[slot], self._values[slot] = event, stamp_ns, values
        self._newest = said
        self._count += 1

    def read(self, now: Attended) -> tuple[Attribute, ...]:
        """The answers as they stand for the present; none before the first analysis."""
        if self._count < 2:
            return self._newest
        known = slice(min(self._count, SLOTS))
        newest = (self._count - 1) % SLOTS
        back = (newest - np.arange(known.stop)) % SLOTS
        ages = (self._stamps_ns[newest] - self._stamps_ns[known]) * NANOSECONDS
        distances = 1.0 - self._events[known] @ now.event
        scores = (
            -np.square(back / HORIZON)
            - np.square(ages / HORIZON_S)
            - distances / (TEMPERATURE_IN_SCALES * now.scale)
        )
        weights = np.exp(scores - scores.max())
        mixed = (weights / weights.sum()) @ self._values[known]
        answers, first = [], 0
        for each in self._newest:
            part = mixed[first : first + len(each.choices)]
            first += len(each.choices)
            answers.append(
                replace(
                    each,
                    value=each.choices[int(part.argmax())],
                    probabilities=tuple(float(value) for value in part),
                )
            )
        return tuple(answers)


def _layout(said: Sequence[Attribute]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, each.choices) for each in said]
