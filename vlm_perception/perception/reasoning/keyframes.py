# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which frames deserve a full analysis, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.vision.running_spread import cosine_distance
from vlm_perception.perception.vision.temporal_state import Attended
from vlm_perception.types import UNKNOWN_AGE, Embedding, Tag, Trigger

NANOSECONDS = 1e-9

DRIFT_IN_SCALES = 1.45
"""Drift that makes a key frame, in units of the scale from which on two events are different."""
OLD_FACTOR, OLD_AFTER = 0.5, 1.0
"""Share of that drift which suffices when the anchor is this many seconds old; until then the share
falls steadily. So drift near its threshold does not make each frame a key frame, and small changes
are analysed before long."""
APPEARED_TICKS, VANISHED_TICKS = 5, 8
"""A tag counts when it has been present, or absent, for this many frames in a row. What appears may
be a hazard and counts sooner."""


@dataclass(frozen=True)
class Anchor:
    """The frame of the last full analysis."""

    stamp_ns: int
    event: NDArray[np.float32]
    instruction_version: int


@dataclass(frozen=True)
class Decision:
    """Whether a frame is a key frame: any trigger but NONE makes it one."""

    trigger: Trigger
    drift: float
    """Cosine distance of the event embedding from the anchor's, 0 to 2; 0 without an anchor."""

    @property
    def is_keyframe(self) -> bool:
        """Whether the frame is to be analysed."""
        return self.trigger is not Trigger.NONE


@dataclass(frozen=True)
class KeyframeSettings:
    """When a full analysis is due; times in seconds, by the frames' stamps."""

    drift_threshold: float = 0.0
    """Cosine distance; 0 takes the scale of the events, which follows their running spread."""
    max_age: float = 1.0
    min_interval: float = 0.0
    """Shortest time to a key frame that drift, tags or a conflict make."""
    max_stamp_gap: float = 5.0
    """A longer leap of the stamps forwards is a time jump; a step backwards always is one."""
    force: bool = False


class KeyframePolicy:
    """Remembers the anchor and compares each frame with it.

    Between two key frames the anchor is younger than `max_age`, whatever the frames show.
    """

    def __init__(self, settings: KeyframeSettings) -> None:
        """Start without an anchor: the first frame is a key frame."""
        self._settings = settings
        self._anchor: Anchor | None = None
        self._last_stamp_ns = 0
        self._pending = Trigger.FIRST
        self._asked = False
        self._tags = _TagWatch()

    def copy(self) -> KeyframePolicy:
        """Return another that remembers the same; what either decides, the other does not know."""
        other = copy(self)
        other._tags = copy(self._tags)
        return other

    def ahead(
        self, embedding: Embedding, attended: Attended, instruction_version: int
    ) -> KeyframePolicy:
        """Return another as if this frame had been analysed, whose anchor never becomes too old."""
        other = self.copy()
        other._settings = replace(self._settings, max_age=math.inf)
        other.set_anchor(embedding, attended, instruction_version)
        return other

    def reset(self) -> None:
        """Drop the anchor, since time has jumped; the next frame becomes a key frame."""
        self._anchor = None
        self._last_stamp_ns = 0
        self._pending = Trigger.TIME_JUMP

    def ask(self) -> None:
        """Doubt the last analysis: the next frame becomes a key frame."""
        self._asked = True

    def decide(
        self, embedding: Embedding, attended: Attended, instruction_version: int
    ) -> Decision:
        """Say whether this frame is to be analysed.

        Args:
            embedding: the frame; frames come in the order of arrival.
            attended: what the temporal state makes of it.
            instruction_version: of the instruction that an analysis would follow.
        """
        jumped = self._jumped(embedding.stamp_ns)
        self._last_stamp_ns = embedding.stamp_ns
        anchor = self._anchor
        if anchor is None:
            return Decision(self._pending, 0.0)
        tags_changed = self._tags.changed(embedding.tags, embedding.vocabulary_version)
        drift = cosine_distance(anchor.event, attended.event)
        age = _age(anchor.stamp_ns, embedding.stamp_ns)
        settings = self._settings
        # An unknown age may be any age, so that the anchor cannot be relied upon.
        too_old = age == UNKNOWN_AGE or age >= settings.max_age
        may = age >= settings.min_interval
        causes = (
            (Trigger.FORCED, settings.force),
            (Trigger.TIME_JUMP, jumped),
            (Trigger.INSTRUCTION, instruction_version != anchor.instruction_version),
            (Trigger.AGE, too_old),
            (Trigger.CONFLICT, may and self._asked),
            (Trigger.TAGS, may and tags_changed),
            (Trigger.DRIFT, may and drift > self._threshold(age, attended.scale)),
        )
        trigger = next((trigger for trigger, holds in causes if holds), Trigger.NONE)
        return Decision(trigger, drift)

    def set_anchor(
        self, embedding: Embedding, attended: Attended, instruction_version: int
    ) -> None:
        """Remember the frame that was analysed."""
        self._anchor = Anchor(
            stamp_ns=embedding.stamp_ns,
            event=attended.event,
            instruction_version=instruction_version,
        )
        self._tags.set_anchor(embedding.tags, embedding.vocabulary_version)
        self._asked = False

    def _threshold(self, age: float, scale: float) -> float:
        fixed = self._settings.drift_threshold
        if fixed:
            return fixed
        share = min(1.0, age / OLD_AFTER)
        factor = 1.0 + (OLD_FACTOR - 1.0) * share
        return DRIFT_IN_SCALES * factor * scale

    def _jumped(self, stamp_ns: int) -> bool:
        if not stamp_ns or not self._last_stamp_ns:
            return False
        step = (stamp_ns - self._last_stamp_ns) * NANOSECONDS
        return step < 0.0 or step > self._settings.max_stamp_gap


class _TagWatch:
    """Counts for how many frames in a row the tags have differed from the anchor's."""

    def __init__(self) -> None:
        self.set_anchor((), 0)

    def set_anchor(self, tags: Sequence[Tag], vocabulary_version: int) -> None:
        self._anchors = {tag.label for tag in tags}
        self._version = vocabulary_version
        self._appeared = self._vanished = 0

    def changed(self, tags: Sequence[Tag], vocabulary_version: int) -> bool:
        """Whether a tag has appeared or vanished for long enough."""
        if vocabulary_version != self._version:
            # Other labels are looked for: the scene itself need not have changed.
            self.set_anchor(tags, vocabulary_version)
            return False
        now = {tag.label for tag in tags}
        self._appeared = self._appeared + 1 if now - self._anchors else 0
        self._vanished = self._vanished + 1 if self._anchors - now else 0
        return self._appeared >= APPEARED_TICKS or self._vanished >= VANISHED_TICKS


def _age(since_ns: int, now_ns: int) -> float:
    if not since_ns or not now_ns:
        return UNKNOWN_AGE
    return max(0.0, (now_ns - since_ns) * NANOSECONDS)
