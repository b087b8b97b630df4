# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The answers of the last analyses, brought up to date and read together from the present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.vision.temporal_state import Attended
from vlm_perception.types import Attribute

NANOSECONDS = 1e-9

SLOTS = 12
"""Analyses that are remembered."""
HORIZON = 2.5
"""Number of analyses after which the weight is 1/e of the newest one's; it falls with the square.
That many outvote noise, and a change without drift is believed after half of them."""
HORIZON_S = 4.0
"""The same for the time between them: analyses may be rare."""

TEMPERATURE_IN_SCALES = 1.25
"""Distance of two events whose answers count for each other by 1/e, in units of their scale."""

TRUST = 0.6
"""Share of a change of the evidence that is believed. Below one: the readouts and the language
model look with the same eyes, and what has fooled one has fooled the other."""
LEAST_PROBABILITY = 1e-4
"""A language model is never surer than this, so that later evidence can speak against it."""


class AnswerMemory:
    """What was answered at the last key frames, each under the event embedding it was answered of.

    The present event is the query, those of the key frames are the keys, and the values are the
    probabilities of the choices: a single answer that the noise turned over is outvoted by its
    neighbours, and what was answered before something happened has no vote after it.

    Where the temporal module has a readout of a question, each remembered answer is first brought
    up to date by Bayes' rule: multiplied by how much likelier the readout holds each choice now
    than it did then. What the readout is always wrong about cancels out.

    An answer without probabilities has no vote: of such a question the newest one holds.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._newest: tuple[Attribute, ...] = ()
        self._count = 0
        self._stamps_ns = np.zeros(SLOTS, np.int64)
        self._events = np.zeros((SLOTS, 0), np.float32)
        self._values = np.zeros((SLOTS, 0))
        self._evidence = np.zeros((SLOTS, 0))
        self._starts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._columns: NDArray[np.int64] = np.zeros(0, np.int64)

    def reset(self) -> None:
        """Forget everything."""
        self._newest, self._count = (), 0

    def add(self, frame: Attended, stamp_ns: int, said: tuple[Attribute, ...]) -> None:
        """Remember the answers for a frame.

        Other questions than before clear the memory, and so does an unknown stamp, now or before:
        nothing is known then of how far the past counts.

        Args:
            frame: what the temporal state makes of it.
            stamp_ns: its time; 0 if unknown.
            said: the answers.
        """
        if not said:
            self.reset()
            return
        values = [value for each in said for value in each.probabilities or _even(each)]
        last_ns = self._stamps_ns[(self._count - 1) % SLOTS] if self._count else 0
        if _layout(said) != _layout(self._newest) or not stamp_ns or not last_ns:
            self._start(frame, said)
        slot = self._count % SLOTS
        self._events[slot], self._stamps_ns[slot] = frame.event, stamp_ns
        self._values[slot], self._evidence[slot] = values, self._evidence_of(frame)
        self._newest = said
        self._count += 1

    def read(self, now: Attended) -> tuple[Attribute, ...]:
        """The answers for the present; none before the first analysis."""
        if not self._count:
            return ()
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
        mixed = (weights / weights.sum()) @ self._updated(known, now)
        answers, first = [], 0
        for each in self._newest:
            part = mixed[first : first + len(each.choices)]
            first += len(each.choices)
            answers.append(_voted(each, part) if each.probabilities else each)
        return tuple(answers)

    def _start(self, frame: Attended, said: Sequence[Attribute]) -> None:
        """Make room for answers of this layout, and find the columns that have a readout."""
        sizes = [len(each.choices) for each in said]
        self._count = 0
        self._events = np.zeros((SLOTS, len(frame.event)), np.float32)
        self._values = np.zeros((SLOTS, sum(sizes)))
        self._evidence = np.zeros((SLOTS, sum(sizes)))
        self._starts = np.cumsum([0, *sizes])[:-1]
        readouts = frame.evidence.readouts if frame.evidence is not None else ()
        places, first = {}, 0
        for spec in readouts:
            places[spec.name, spec.choices] = first
            first += len(spec.choices)
        self._columns = np.concatenate(
            [_columns(places.get((each.name, each.choices)), len(each.choices)) for each in said]
        )

    def _evidence_of(self, frame: Attended) -> NDArray[np.float64]:
        """The readouts' log-probabilities in the layout of the answers; 0 where there are none."""
        if frame.evidence is None:
            return np.zeros(len(self._columns))
        return np.where(self._columns >= 0, frame.evidence.values[self._columns], 0.0)

    def _updated(self, known: slice, now: Attended) -> NDArray[np.float64]:
        """The remembered probabilities as they would be now, [analyses, choices]."""
        values, readable = self._values[known], self._columns >= 0
        if not readable.any():
            return values
        change = self._evidence_of(now) - self._evidence[known]
        odds = np.maximum(values, LEAST_PROBABILITY) * np.exp(TRUST * change)
        sums = np.add.reduceat(odds, self._starts, axis=1)
        sizes = np.diff(self._starts, append=odds.shape[1])
        return np.where(readable, odds / np.repeat(sums, sizes, axis=1), values)


def _even(attribute: Attribute) -> list[float]:
    """In place of probabilities that are not known."""
    return [1.0 / len(attribute.choices)] * len(attribute.choices)


def _voted(attribute: Attribute, probabilities: NDArray[np.float64]) -> Attribute:
    return replace(
        attribute,
        value=attribute.choices[int(probabilities.argmax())],
        probabilities=tuple(float(value) for value in probabilities),
    )


def _columns(first: int | None, count: int) -> NDArray[np.int64]:
    """Where the readout of a question begins, and the next ones; -1 without a readout."""
    return np.full(count, -1) if first is None else np.arange(first, first + count)


def _layout(said: Sequence[Attribute]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.name, each.choices) for each in said]
