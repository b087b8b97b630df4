# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a gate in front of the language model saves, and which events that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.evaluation.temporal.sequences import TICK_HZ, Recording
from vlm_perception.perception.reasoning.answer_memory import AnswerMemory
from vlm_perception.perception.reasoning.keyframes import KeyframePolicy, KeyframeSettings
from vlm_perception.perception.vision.temporal_state import Attended, Attention, TemporalState
from vlm_perception.types import Attribute, Embedding, Tag

Flags = NDArray[np.bool_]
Answers = NDArray[np.int64]
"""[T, questions], index of the choice."""

EVENTS = {
    "light turns red": ("traffic_light", "red", 0),
    "pedestrian in the path": ("pedestrian_in_path", "yes", 1),
    "construction zone": ("construction", "yes", 2),
}
"""Event -> the question, the answer that it begins, and its column in `Recording.distances`."""
LASTING_TICKS = 5
"""What is true for a shorter time is no event."""
FOUND_TICKS = 2
"""An event is found when the answer is right for this many ticks in a row: one may be chance."""
DISTANCES = {"below 10 m": (0.0, 10.0), "10 to 20 m": (10.0, 20.0), "from 20 m": (20.0, 1e9)}


@dataclass(frozen=True)
class Event:
    """Something begins to be true: from tick `begin` up to `end` (exclusive) of a sequence."""

    name: str
    sequence: int
    begin: int
    end: int


def events(recordings: Sequence[Recording]) -> list[Event]:
    """All events; what is true from the first tick on did not begin."""
    found = []
    for index, recording in enumerate(recordings):
        for name, (question, answer, _) in EVENTS.items():
            true = recording.truths[:, _column(question)] == _choice(question, answer)
            edges = np.flatnonzero(np.diff(np.concatenate(([False], true, [False])).astype(int)))
            for begin, end in edges.reshape(-1, 2).tolist():
                if begin > 0 and end - begin >= LASTING_TICKS:
                    found.append(Event(name, index, begin, end))
    return found


def attend(recording: Recording, attention: Attention) -> list[Attended]:
    """Run the temporal state over a sequence, a tick at a time."""
    state = TemporalState(recording.pooled.shape[1], attention)
    return [state.attend(pooled, stamp_of(tick)) for tick, pooled in enumerate(recording.pooled)]


def stamp_of(tick: int) -> int:
    """Stamp of a tick in nanoseconds; the first is not 0, which means that it is unknown."""
    return round((1.0 + tick / TICK_HZ) * 1e9)


def key_frames(
    states: Sequence[Attended], tags: Flags, labels: Sequence[str], settings: KeyframeSettings
) -> Flags:
    """Run the policy over a sequence; returns which ticks are key frames, [T].

    Args:
        states: what the temporal state makes of each tick.
        tags: [T, labels], the tags that each embedding carries.
        labels: their names.
        settings: of the policy.
    """
    policy, chosen = KeyframePolicy(settings), np.zeros(len(tags), np.bool_)
    for tick, (attended, present) in enumerate(zip(states, tags, strict=True)):
        embedding = Embedding(
            stamp_ns=stamp_of(tick),
            frame_id="",
            sequence=tick,
            run_id="",
            bundle_digest="",
            image_size=(0, 0),
            grid_size=(0, 0),
            pooled=attended.state,
            tokens=np.zeros((0, 0), np.float16),
            token_index=np.zeros(0, np.uint16),
            tags=tuple(Tag(int(i), labels[i], 1.0) for i in np.flatnonzero(present)),
            regions=(),
            vocabulary_version=1,
        )
        if policy.decide(embedding, attended, 0).is_keyframe:
            policy.set_anchor(embedding, attended, 0)
            chosen[tick] = True
    return chosen


def recalled(
    recording: Recording, states: Sequence[Attended], chosen: Flags
) -> NDArray[np.float32]:
    """The probabilities that the reasoner publishes at each tick, [T, choices], for key frames."""
    memory, published = AnswerMemory(), np.empty_like(recording.probabilities)
    sizes = [len(choices) for _, choices in QUESTIONS.values()]
    for tick, attended in enumerate(states):
        if chosen[tick]:
            parts = np.split(recording.probabilities[tick], np.cumsum(sizes)[:-1])
            predicted = tuple(
                Attribute(name, "", choices, tuple(part.tolist()))
                for (name, (_, choices)), part in zip(QUESTIONS.items(), parts, strict=True)
            )
            memory.add(attended, stamp_of(tick), predicted)
        published[tick] = [p for each in memory.read(attended) for p in each.probabilities]
    return published


@dataclass(frozen=True)
class GateFigures:
    """A gate against a full analysis at each tick."""

    analyses_saved: float
    """Share."""
    event_recall: float
    """Share of the events that the ungated run finds."""
    event_recall_any_tick: float
    """The same where one right tick suffices for either."""
    accuracy_loss: float
    """Of the answers, in points."""
    delay_ticks_p50: float
    """From the ungated run's finding of an event to the gated one's."""
    delay_ticks_p95: float


def judge(
    recordings: Sequence[Recording],
    chosen: Sequence[Flags],
    gated: Sequence[Answers],
    ungated: Sequence[Answers],
    happened: Sequence[Event],
) -> GateFigures:
    """Compare the answers of a gate, [T, questions], with those of a full analysis at each tick."""
    recall: dict[int, list[bool]] = {1: [], FOUND_TICKS: []}
    delays = []
    for event in happened:
        for ticks, hits in recall.items():
            reference = found_at(ungated[event.sequence], event, ticks)
            if reference is None:
                continue
            at = found_at(gated[event.sequence], event, ticks)
            hits.append(at is not None)
            if ticks == FOUND_TICKS and at is not None:
                delays.append(at - reference)
    return GateFigures(
        analyses_saved=1.0 - float(np.concatenate(chosen).mean()),
        event_recall=_share(recall[FOUND_TICKS]),
        event_recall_any_tick=_share(recall[1]),
        accuracy_loss=accuracy(recordings, ungated) - accuracy(recordings, gated),
        delay_ticks_p50=float(np.quantile(delays, 0.5)) if delays else float("nan"),
        delay_ticks_p95=float(np.quantile(delays, 0.95)) if delays else float("nan"),
    )


def accuracy(recordings: Sequence[Recording], answers: Sequence[Answers]) -> float:
    """Share of ticks and questions that are right, in percent."""
    pairs = zip(recordings, answers, strict=True)
    return 100.0 * float(np.mean([(predicted == each.truths).mean() for each, predicted in pairs]))


def found_at(answers: Answers, event: Event, ticks: int = FOUND_TICKS) -> int | None:
    """First tick at which the answer has been right for `ticks` in a row, or None."""
    question, answer, _ = EVENTS[event.name]
    right = answers[event.begin : event.end, _column(question)] == _choice(question, answer)
    runs = np.convolve(right, np.ones(ticks, np.int64))[: len(right)] == ticks
    return event.begin + int(np.argmax(runs)) if runs.any() else None


@dataclass(frozen=True)
class TruthFigures:
    """Answers compared with the ground truth for one kind of event."""

    event: str
    events: int
    recall: float
    """Share of the events that are found."""
    delay_s_p50: float
    """From the begin of an event to its finding."""
    delay_s_p95: float
    by_distance: dict[str, float]
    """Share of the ticks at which the answer is right while it is true, by the thing's distance."""


def against_truth(
    recordings: Sequence[Recording],
    answers: Sequence[Answers],
    happened: Sequence[Event],
) -> list[TruthFigures]:
    """Recall, delay and recall by distance for each kind of event."""
    rows = []
    for name, (question, answer, column) in EVENTS.items():
        mine = [event for event in happened if event.name == name]
        at = [found_at(answers[event.sequence], event) for event in mine]
        delays = [
            (tick - event.begin) / TICK_HZ
            for tick, event in zip(at, mine, strict=True)
            if tick is not None
        ]
        distance = np.concatenate([r.distances[:, column] for r in recordings])
        wanted = _choice(question, answer)
        true = np.concatenate([r.truths[:, _column(question)] for r in recordings]) == wanted
        predicted = np.concatenate([a[:, _column(question)] for a in answers]) == wanted
        rows.append(
            TruthFigures(
                event=name,
                events=len(mine),
                recall=_share([tick is not None for tick in at]),
                delay_s_p50=float(np.quantile(delays, 0.5)) if delays else float("nan"),
                delay_s_p95=float(np.quantile(delays, 0.95)) if delays else float("nan"),
                by_distance={
                    words: _share(predicted[true & (distance >= low) & (distance < high)])
                    for words, (low, high) in DISTANCES.items()
                },
            )
        )
    return rows


def _column(question: str) -> int:
    return list(QUESTIONS).index(question)


def _choice(question: str, answer: str) -> int:
    return QUESTIONS[question][1].index(answer)


def _share(hits: Sequence[bool] | Flags) -> float:
    return float(np.mean(hits)) if len(hits) else float("nan")
