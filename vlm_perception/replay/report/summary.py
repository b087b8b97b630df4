# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A summary of a scene log: courses over time, key frames, latencies, what was wrong.

One pass over the log in constant memory: courses are kept in a fixed number of time slots, which
double in length whenever the log outgrows them.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from vlm_perception.common.duration_histogram import Durations
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.time_axis import TimeAxis
from vlm_perception.replay.report.scene_log import Record, read_log

SLOTS = 1024
FIRST_SLOT_S = 1 / 32
LISTED_FAULTS = 50
LONGEST_GAPS = 50
GAP_IN_INTERVALS = 1.6
"""A pause longer than this many usual ones means that frames are missing."""

SlotT = TypeVar("SlotT")


class Course(Generic[SlotT]):
    """Values over time, joined within each slot."""

    def __init__(self, empty: type[SlotT], join: Any) -> None:
        """Begin without values; `join` adds the second of two slots to the first."""
        self._empty, self._join = empty, join
        self.slot_s = FIRST_SLOT_S
        self.slots: list[SlotT] = []

    def at(self, seconds: float) -> SlotT:
        """The slot of a time, to put a value into."""
        while seconds >= SLOTS * self.slot_s:
            self._halve()
        index = max(0, int(seconds / self.slot_s))
        while len(self.slots) <= index:
            self.slots.append(self._empty())
        return self.slots[index]

    def _halve(self) -> None:
        pairs = range(0, len(self.slots), 2)
        for index in pairs:
            if index + 1 < len(self.slots):
                self._join(self.slots[index], self.slots[index + 1])
        self.slots = [self.slots[index] for index in pairs]
        self.slot_s *= 2


@dataclass(frozen=True)
class Keyframe:
    """A full analysis."""

    number: int
    """Of the reasoning; the thumbnail's name."""
    seconds: float
    trigger: str
    drift: float
    caption: str
    answers: dict[str, tuple[str, float | None]]
    changed: tuple[str, ...]
    """Names of the answers that are others than at the key frame before."""


@dataclass
class Summary:
    """A log as a whole."""

    head: Record
    end: Record | None = None
    """None: the log was interrupted."""
    frames: int = 0
    reasonings: int = 0
    axis: TimeAxis = field(default_factory=TimeAxis)
    """The time axis; all seconds here are on it."""
    seconds: float = 0.0
    sizes: list[tuple[float, int, int]] = field(default_factory=list)
    """From when on images had which width and height."""
    answers: dict[str, Course[Counter[str]]] = field(default_factory=dict)
    tags: dict[str, Course[list[float]]] = field(default_factory=dict)
    tagged: Counter[str] = field(default_factory=Counter)
    status: Course[Counter[str]] = field(default_factory=lambda: Course(Counter, Counter.update))
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    drift: Course[list[float]] = field(default_factory=lambda: Course(list, _peak))
    keyframes: list[Keyframe] = field(default_factory=list)
    triggers: Counter[str] = field(default_factory=Counter)
    latency: dict[str, Durations] = field(default_factory=lambda: defaultdict(Durations))
    stages: dict[str, Durations] = field(default_factory=lambda: defaultdict(Durations))
    faults: list[tuple[float, str, str, int]] = field(default_factory=list)
    """Time, kind, text and frame of the first ones."""
    fault_kinds: Counter[str] = field(default_factory=Counter)
    jumps: list[float] = field(default_factory=list)
    conflicts: Counter[str] = field(default_factory=Counter)
    hazards: Counter[str] = field(default_factory=Counter)
    intervals: Durations = field(default_factory=Durations)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """The longest intervals, each with the time at which it began."""

    def gaps(self) -> list[tuple[float, float, int]]:
        """When frames were missing, for how long, and about how many; in the order of time."""
        usual = self.intervals.percentile(50)
        missing = (
            (began, length, round(length / usual) - 1)
            for length, began in self.pauses
            if usual and length > GAP_IN_INTERVALS * usual
        )
        return sorted(missing)


def summarize(file: Path) -> Summary:
    """Read a scene log.

    Raises:
        ReplayError: it is none, or holds no frame.
    """
    records = read_log(file)
    summary = Summary(head=next(records))
    last_s: float | None = None
    for record in records:
        if "tags" in record:
            last_s = _take_frame(summary, record, last_s)
        elif "reasoning" in record:
            _take_reasoning(summary, record)
        elif "fault" in record:
            _take_fault(summary, record)
        elif "event" in record:
            summary.jumps.append(summary.axis.seconds(record["time"]))
        elif "end" in record:
            summary.end = record
    if not summary.frames and not summary.fault_kinds:
        raise ReplayError(f"{file} contains no frame")
    return summary


def _take_frame(summary: Summary, record: Record, last_s: float | None) -> float:
    now = summary.axis.seconds(record["time"])
    summary.frames += 1
    summary.seconds = max(summary.seconds, now)
    width, height = record["size"]
    if not summary.sizes or summary.sizes[-1][1:] != (width, height):
        summary.sizes.append((now, width, height))
    for name, (value, _) in record["attributes"].items():
        summary.answers.setdefault(name, Course(Counter, Counter.update)).at(now)[value] += 1
    for label, score in record["tags"].items():
        slot = summary.tags.setdefault(label, Course(list, _peak)).at(now)
        _peak(slot, [score])
    summary.tagged.update(record["tags"].keys())
    summary.status.at(now)[record["status"]] += 1
    summary.statuses[record["status"]] += 1
    if record["reason"]:
        summary.reasons[_without_numbers(record["reason"])] += 1
    summary.levels[record["rung"]] += 1
    summary.conflicts.update(record["conflicts"])
    summary.hazards.update(record["hazards"])
    for name, seconds in record["latency"].items():
        summary.latency[name].add(seconds)
    if last_s is not None:
        _take_interval(summary, last_s, now - last_s)
    return now


def _take_interval(summary: Summary, began: float, length: float) -> None:
    summary.intervals.add(length)
    if len(summary.pauses) < LONGEST_GAPS:
        heapq.heappush(summary.pauses, (length, began))
    else:
        heapq.heappushpop(summary.pauses, (length, began))


def _take_reasoning(summary: Summary, record: Record) -> None:
    # A reasoning has the stamp of its image, whose clock need not be the recording's.
    now = summary.seconds
    summary.reasonings += 1
    _peak(summary.drift.at(now), [record["drift"]])
    if "attributes" not in record:
        return
    answers = {
        name: max(choices.items(), key=lambda item: item[1] or 0.0)
        for name, choices in record["attributes"].items()
    }
    before = summary.keyframes[-1].answers if summary.keyframes else {}
    changed = tuple(
        name for name, (value, _) in answers.items() if name in before and before[name][0] != value
    )
    summary.keyframes.append(
        Keyframe(
            record["reasoning"],
            now,
            record["trigger"],
            record["drift"],
            record["caption"],
            answers,
            changed,
        )
    )
    summary.triggers[record["trigger"]] += 1
    for name, seconds in record["stages"].items():
        summary.stages[name].add(seconds)


def _take_fault(summary: Summary, record: Record) -> None:
    summary.fault_kinds[record["fault"]] += 1
    now = summary.axis.seconds(record["time"])
    summary.seconds = max(summary.seconds, now)
    if len(summary.faults) < LISTED_FAULTS:
        summary.faults.append((now, record["fault"], record["text"], record["frame"]))


def _peak(slot: list[float], values: Iterable[float]) -> None:
    """Keep the highest value in a slot."""
    slot[:] = [max([*slot, *values])] if slot or values else []


def _without_numbers(text: str) -> str:
    return " ".join(word for word in text.split() if not word[:1].isdigit())
