# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Joins the fast and the slow path: what is known now, how old it is, how far to trust it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlm_perception.types import (
    UNKNOWN_AGE,
    Attribute,
    Embedding,
    Reasoning,
    Scene,
    Status,
    Tag,
)

NANOSECONDS = 1e-9
REMEMBERED_REASONINGS = 32


@dataclass(frozen=True)
class Contradiction:
    """A tag of the fast path that cannot hold while the slow path gives this answer."""

    attribute: str
    value: str
    label: str

    @classmethod
    def parse(cls, line: str) -> Contradiction:
        """Read 'attribute=value | label'.

        Raises:
            ValueError: it is written otherwise.
        """
        answer, _, label = (part.strip() for part in line.partition("|"))
        attribute, _, value = (part.strip() for part in answer.partition("="))
        if not (attribute and value and label):
            raise ValueError(f"{line!r} is not written as 'attribute=value | label'")
        return cls(attribute, value, label)


@dataclass(frozen=True)
class FusionSettings:
    """How old the slow path may be, and what is to be watched."""

    stale_after: float = 1.0
    """Seconds."""
    hazards: tuple[str, ...] = ()
    """Labels that are repeated as hazards while they are tagged."""
    contradictions: tuple[Contradiction, ...] = ()


@dataclass(frozen=True)
class _Received:
    reasoning: Reasoning
    at_s: float


class SceneFusion:
    """Keeps the newest reasonings and joins each embedding with the one that fits it."""

    def __init__(
        self,
        settings: FusionSettings | None = None,
        run_id: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start knowing nothing.

        Args:
            settings: ages and hazards.
            run_id: is written into each scene.
            clock: monotonic seconds, the clock of `received_s` and `now_s`.
        """
        self._settings = settings or FusionSettings()
        self._run_id = run_id
        self._clock = clock
        self._sequence = 0
        self._reasonings: deque[_Received] = deque(maxlen=REMEMBERED_REASONINGS)
        self._last: Scene | None = None
        self._last_at_s = 0.0
        self._last_embedding_ns = 0

    def reset(self) -> None:
        """Forget all that was received, as when time has jumped."""
        self._reasonings.clear()
        self._last = None
        self._last_embedding_ns = 0

    def add_reasoning(self, reasoning: Reasoning, received_s: float) -> None:
        """Take a reasoning in.

        Args:
            reasoning: what the slow path says.
            received_s: monotonic time of arrival.
        """
        self._reasonings.append(_Received(reasoning, received_s))

    def fuse(self, embedding: Embedding, received_s: float, now_ns: int) -> Scene:
        """Make the scene of an embedding.

        Args:
            embedding: what the fast path says.
            received_s: monotonic time of arrival.
            now_ns: time on the clock of the stamps; 0 when unknown.
        """
        self._forget_future(embedding.stamp_ns)
        now_s = self._clock()
        received = self._match(embedding)
        reasoning = received.reasoning if received is not None else None
        embedding_age = _age(embedding.stamp_ns, now_ns)
        reasoning_age = _age(reasoning.stamp_ns, now_ns) if reasoning else UNKNOWN_AGE
        status, reason = self._judge(embedding, reasoning, reasoning_age)
        conflicts = _conflicts(self._settings, embedding.tags, reasoning)
        scene = Scene(
            stamp_ns=embedding.stamp_ns,
            frame_id=embedding.frame_id,
            run_id=self._run_id,
            sequence=self._next_sequence(),
            bundle_digest=embedding.bundle_digest,
            image_size=embedding.image_size,
            vocabulary_version=embedding.vocabulary_version,
            instruction_version=reasoning.instruction_version if reasoning else 0,
            tags=embedding.tags,
            regions=embedding.regions,
            attributes=reasoning.attributes if reasoning else (),
            hazards=_hazards(self._settings, embedding.tags),
            conflicts=conflicts,
            caption=reasoning.caption if reasoning else "",
            keyframe_stamp_ns=reasoning.keyframe_stamp_ns if reasoning else 0,
            embedding_age=embedding_age,
            reasoning_age=reasoning_age,
            keyframe_age=_age(reasoning.keyframe_stamp_ns, now_ns) if reasoning else UNKNOWN_AGE,
            latency=_latency(embedding.stamp_ns, received_s, received, now_s, now_ns),
            rung=reasoning.rung if reasoning else 0,
            status=status,
            reason=reason,
        )
        self._last, self._last_at_s = scene, now_s
        return scene

    def heartbeat(self, now_s: float, camera_alive: bool, silent_after: float = 1.0) -> Scene:
        """The last scene again, older; after `silent_after` the status says what is missing.

        Args:
            now_s: monotonic time.
            camera_alive: whether images still arrive, so that the encoder is at fault.
            silent_after: seconds without an embedding from which something is missing.
        """
        status = Status.NO_EMBEDDING if camera_alive else Status.NO_CAMERA
        last = self._last
        missing = "embedding" if camera_alive else "image"
        if last is None:
            return self._empty(status, f"no {missing} has arrived yet")
        silent = max(0.0, now_s - self._last_at_s)
        reason = f"no {missing} for {silent:.1f} s"
        if silent < silent_after:
            status, reason = last.status, last.reason
        return replace(
            last,
            sequence=self._next_sequence(),
            embedding_age=_older(last.embedding_age, silent),
            reasoning_age=_older(last.reasoning_age, silent),
            keyframe_age=_older(last.keyframe_age, silent),
            latency={},
            status=status,
            reason=reason,
        )

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _forget_future(self, stamp_ns: int) -> None:
        """When the stamps jumped back, drop what belongs to a time that is yet to come."""
        if stamp_ns and stamp_ns < self._last_embedding_ns:
            kept = [item for item in self._reasonings if item.reasoning.stamp_ns <= stamp_ns]
            self._reasonings = deque(kept, maxlen=REMEMBERED_REASONINGS)
        self._last_embedding_ns = stamp_ns

    def _match(self, embedding: Embedding) -> _Received | None:
        """The newest reasoning of this bundle that is not newer than the embedding."""
        for item in reversed(self._reasonings):
            same_bundle = item.reasoning.bundle_digest == embedding.bundle_digest
            unknown = not embedding.stamp_ns or not item.reasoning.stamp_ns
            if same_bundle and (unknown or item.reasoning.stamp_ns <= embedding.stamp_ns):
                return item
        return None

    def _judge(
        self, embedding: Embedding, reasoning: Reasoning | None, reasoning_age: float
    ) -> tuple[Status, str]:
        if reasoning is None:
            newest = self._reasonings[-1].reasoning if self._reasonings else None
            if newest is not None and newest.bundle_digest != embedding.bundle_digest:
                return Status.NO_REASONING, (
                    f"the reasoning is from bundle {newest.bundle_digest[:12]} and the embedding "
                    f"from {embedding.bundle_digest[:12]}"
                )
            return Status.NO_REASONING, "no reasoning has arrived"
        if not embedding.stamp_ns:
            return Status.DEGRADED, "the camera sends no time stamps, ages are unknown"
        if reasoning_age > self._settings.stale_after:
            return Status.STALE_REASONING, (
                f"the reasoning is {reasoning_age:.1f} s old, more than "
                f"{self._settings.stale_after:g} s"
            )
        if reasoning.rung:
            return Status.DEGRADED, f"the language node saves work (rung {reasoning.rung})"
        return Status.OK, ""

    def _empty(self, status: Status, reason: str) -> Scene:
        return Scene(
            stamp_ns=0,
            frame_id="",
            run_id=self._run_id,
            sequence=self._next_sequence(),
            bundle_digest="",
            image_size=(0, 0),
            vocabulary_version=0,
            instruction_version=0,
            tags=(),
            regions=(),
            attributes=(),
            hazards=(),
            conflicts=(),
            caption="",
            keyframe_stamp_ns=0,
            embedding_age=UNKNOWN_AGE,
            reasoning_age=UNKNOWN_AGE,
            keyframe_age=UNKNOWN_AGE,
            latency={},
            rung=0,
            status=status,
            reason=reason,
        )


def _age(stamp_ns: int, now_ns: int) -> float:
    """Seconds since a stamp; a stamp from the future is taken for now."""
    if not stamp_ns or not now_ns:
        return UNKNOWN_AGE
    return max(0.0, (now_ns - stamp_ns) * NANOSECONDS)


def _older(age: float, by: float) -> float:
    return age if age == UNKNOWN_AGE else age + by


def _hazards(settings: FusionSettings, tags: tuple[Tag, ...]) -> tuple[str, ...]:
    return tuple(tag.label for tag in tags if tag.label in settings.hazards)


def _conflicts(
    settings: FusionSettings, tags: tuple[Tag, ...], reasoning: Reasoning | None
) -> tuple[str, ...]:
    if reasoning is None:
        return ()
    tagged = {tag.label for tag in tags}
    answers: dict[str, Attribute] = {item.name: item for item in reasoning.attributes}
    return tuple(
        f"{rule.label} is tagged, and {rule.attribute} is said to be {rule.value}"
        for rule in settings.contradictions
        if rule.label in tagged
        and rule.attribute in answers
        and answers[rule.attribute].value == rule.value
    )


def _latency(
    stamp_ns: int, received_s: float, reasoning: _Received | None, now_s: float, now_ns: int
) -> dict[str, float]:
    """Seconds from the capture of a frame to each station, as far as the stamps are known.

    Arrivals are monotonic times; the two clocks are read together only now.
    """
    latency: dict[str, float] = {}
    scene = _age(stamp_ns, now_ns)
    if scene != UNKNOWN_AGE:
        latency["capture_to_scene"] = scene
        latency["capture_to_embedding"] = max(0.0, scene - max(0.0, now_s - received_s))
    if reasoning is not None:
        age = _age(reasoning.reasoning.stamp_ns, now_ns)
        if age != UNKNOWN_AGE:
            waited = max(0.0, now_s - reasoning.at_s)
            latency["capture_to_reasoning"] = max(0.0, age - waited)
    return latency
