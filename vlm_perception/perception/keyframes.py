# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Decides which frames deserve a full analysis, and says why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.types import UNKNOWN_AGE, Embedding, Trigger

NANOSECONDS = 1e-9


@dataclass(frozen=True)
class Anchor:
    """The frame of the last full analysis."""

    stamp_ns: int
    bundle_digest: str
    pooled: NDArray[np.float32]
    instruction_version: int


@dataclass(frozen=True)
class Decision:
    """Whether a frame is a key frame: any trigger but NONE makes it one."""

    trigger: Trigger
    drift: float
    """Cosine distance of the pooled embedding from the anchor's, 0 to 2; 0 without an anchor."""

    @property
    def is_keyframe(self) -> bool:
        """Whether the frame is to be analysed."""
        return self.trigger is not Trigger.NONE


@dataclass(frozen=True)
class KeyframeSettings:
    """When a full analysis is due; times in seconds, by the frames' stamps."""

    drift_threshold: float = 0.15
    max_age: float = 2.0
    min_interval: float = 0.0
    max_stamp_gap: float = 5.0
    """A longer leap of the stamps forwards is a time jump; a step backwards always is one."""
    force: bool = False


class KeyframePolicy:
    """Remembers the anchor and compares each frame with it."""

    def __init__(self, settings: KeyframeSettings) -> None:
        """Start without an anchor: the first frame is a key frame."""
        self._settings = settings
        self._anchor: Anchor | None = None
        self._last_stamp_ns = 0
        self._pending = Trigger.FIRST

    def reset(self, trigger: Trigger) -> None:
        """Drop the anchor; the next frame becomes a key frame for this reason."""
        self._anchor = None
        self._last_stamp_ns = 0
        self._pending = trigger

    def decide(self, embedding: Embedding, instruction_version: int) -> Decision:
        """Say whether this frame is to be analysed; frames come in the order of arrival."""
        jumped = self._jumped(embedding.stamp_ns)
        self._last_stamp_ns = embedding.stamp_ns
        anchor = self._anchor
        if anchor is None:
            return Decision(self._pending, 0.0)
        drift = max(0.0, 1.0 - float(np.dot(anchor.pooled, embedding.pooled)))
        return Decision(self._trigger(anchor, embedding, instruction_version, drift, jumped), drift)

    def set_anchor(self, embedding: Embedding, instruction_version: int) -> None:
        """Remember the frame that was analysed."""
        self._anchor = Anchor(
            stamp_ns=embedding.stamp_ns,
            bundle_digest=embedding.bundle_digest,
            pooled=embedding.pooled,
            instruction_version=instruction_version,
        )

    def _trigger(
        self,
        anchor: Anchor,
        embedding: Embedding,
        instruction_version: int,
        drift: float,
        jumped: bool,
    ) -> Trigger:
        age = _age(anchor.stamp_ns, embedding.stamp_ns)
        # An unknown age may be any age, so that the anchor cannot be relied upon.
        settings, too_old = self._settings, age == UNKNOWN_AGE or age >= self._settings.max_age
        causes = (
            (Trigger.FORCED, settings.force),
            (Trigger.BUNDLE, embedding.bundle_digest != anchor.bundle_digest),
            (Trigger.TIME_JUMP, jumped),
            (Trigger.INSTRUCTION, instruction_version != anchor.instruction_version),
            (Trigger.AGE, too_old),
            (Trigger.DRIFT, drift > settings.drift_threshold and age >= settings.min_interval),
        )
        return next((trigger for trigger, holds in causes if holds), Trigger.NONE)

    def _jumped(self, stamp_ns: int) -> bool:
        if not stamp_ns or not self._last_stamp_ns:
            return False
        step = (stamp_ns - self._last_stamp_ns) * NANOSECONDS
        return step < 0.0 or step > self._settings.max_stamp_gap


def _age(since_ns: int, now_ns: int) -> float:
    if not since_ns or not now_ns:
        return UNKNOWN_AGE
    return max(0.0, (now_ns - since_ns) * NANOSECONDS)
