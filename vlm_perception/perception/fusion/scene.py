# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Joins the fast and the slow path: what is known now, how old it is, how far to trust it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlm_perception.perception.fusion.ages import (
    NANOSECONDS,
    Doubt,
    age_of,
    doubt_of,
    slow_encoder,
    spell,
)
from vlm_perception.perception.fusion.arrival_monitor import ArrivalMonitor
from vlm_perception.perception.fusion.rules import (
    ConflictWatch,
    Contradiction,
    Hazard,
    present_hazards,
)
from vlm_perception.types import UNKNOWN_AGE, Embedding, Reasoning, Scene, Status

REMEMBERED_REASONINGS = 32


@dataclass(frozen=True)
class FusionSettings:
    """How old the slow path may be, and what is to be watched."""

    stale_after: float = 1.0
    """Seconds."""
    hazards: tuple[Hazard, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    conflict_frames: int = 3
    """Frames in a row that a contradiction must last to be called a conflict."""


@dataclass(frozen=True)
class _Received:
    reasoning: Reasoning
    at_s: float


@dataclass(frozen=True)
class _Joined:
    """The embedding of the last scene, and when that was made on either clock."""

    embedding: Embedding
    received_s: float
    doubt: Doubt | None
    """Of the frame when it was new."""
    now_ns: int
    at_s: float
    conflicts: tuple[str, ...]
    spent_s: float
    """What the encoder has spent on the embedding."""

    def later(self, now_s: float) -> _Joined:
        """The same at a later monotonic time; the ROS clock may stop with the camera."""
        waited = max(0.0, now_s - self.at_s)
        now_ns = self.now_ns + round(waited / NANOSECONDS) if self.now_ns else 0
        return replace(self, now_ns=now_ns, at_s=now_s)


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
        self._conflicts = ConflictWatch(
            self._settings.contradictions, self._settings.conflict_frames
        )
        self.fast, self.slow = ArrivalMonitor(), ArrivalMonitor()
        """How often embeddings and reasonings arrive."""
        self.slow_issue = ""
        """What keeps reasonings away, with a remedy, as the owner found; empty: not known."""
        self._last: _Joined | None = None
        self._last_embedding_ns = 0

    @property
    def empty(self) -> bool:
        """Whether no embedding has been joined, since the start or the last reset."""
        return self._last is None

    @property
    def uninformed(self) -> bool:
        """Whether there is no reasoning, since the start or the last reset."""
        return not self._reasonings

    @property
    def doubt(self) -> str:
        """Why the newest frame is not known to be the present; empty: it is."""
        last = self._last
        return last.doubt.sentence if last is not None and last.doubt is not None else ""

    def reset(self) -> None:
        """Forget all that was received, as when time has jumped."""
        self._reasonings.clear()
        self._conflicts.reset()
        self._last = None
        self._last_embedding_ns = 0

    def add_reasoning(self, reasoning: Reasoning, received_s: float) -> None:
        """Take a reasoning in.

        Args:
            reasoning: the slow path's result.
            received_s: monotonic time of arrival.
        """
        self._reasonings.append(_Received(reasoning, received_s))
        self.slow.arrived(received_s)

    def fuse(
        self, embedding: Embedding, received_s: float, now_ns: int, spent_s: float = 0.0
    ) -> Scene:
        """Make the scene of an embedding.

        Args:
            embedding: the fast path's result.
            received_s: monotonic time of arrival.
            now_ns: time on the clock of the stamps; 0 when unknown.
            spent_s: seconds from the arrival of the image in the encoder to the embedding.
        """
        self._forget_future(embedding.stamp_ns)
        self.fast.arrived(received_s)
        now_s = self._clock()
        received = self._match(embedding)
        attributes = received.reasoning.attributes if received else ()
        conflicts = self._conflicts.look(embedding.tags, attributes)
        doubt = doubt_of(embedding.stamp_ns, now_ns, spent_s)
        self._last = _Joined(embedding, received_s, doubt, now_ns, now_s, conflicts, spent_s)
        latency = _latency(embedding.stamp_ns, received_s, received, now_s, now_ns)
        return replace(self._scene(self._last, received), latency=latency)

    def heartbeat(
        self, now_s: float, camera_alive: bool, longest_silence: float = 1.0, issue: str = ""
    ) -> Scene:
        """The last frame again, older, with the reasoning that has come for it meanwhile.

        Once embeddings are missing, the status shows it.

        Args:
            now_s: monotonic time.
            camera_alive: whether images still arrive, so that the encoder is at fault.
            longest_silence: seconds without an embedding from which they are missing; sooner
                where they used to come often.
            issue: what keeps them away, with a remedy; empty: not known.
        """
        status, missing, remedy = (
            (Status.NO_EMBEDDING, "embedding", "see what vision_encoder reports on /diagnostics")
            if camera_alive
            else (Status.NO_CAMERA, "image", "check that the camera is running, and its topic")
        )
        last, remedy = self._last, issue or remedy
        if last is None:
            return self._empty(status, f"no {missing} has arrived yet: {remedy}")
        silent = max(0.0, now_s - last.at_s)
        scene = self._scene(last.later(now_s), self._match(last.embedding))
        if silent < self.fast.missing_after(longest_silence):
            return scene
        slow = slow_encoder(last.spent_s, silent) if camera_alive else ""
        reason = f"no {missing} for {silent:.1f} s{slow}: {remedy}"
        return replace(scene, status=status, reason=_joined_by(reason, scene.reason))

    def _scene(self, joined: _Joined, received: _Received | None) -> Scene:
        embedding, now_ns = joined.embedding, joined.now_ns
        reasoning = received.reasoning if received is not None else None
        stale = self._why_stale(joined, received) if received is not None else ""
        status, reason = self._judge(joined, reasoning, stale)
        attributes = reasoning.attributes if reasoning else ()
        known = () if stale else attributes
        waited = joined.at_s - received.at_s if received is not None else 0.0
        return Scene(
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
            attributes=attributes,
            hazards=present_hazards(self._settings.hazards, embedding.tags, known),
            conflicts=joined.conflicts,
            caption=reasoning.caption if reasoning else "",
            keyframe_stamp_ns=reasoning.keyframe_stamp_ns if reasoning else 0,
            embedding_age=_age(embedding.stamp_ns, now_ns, joined.at_s - joined.received_s),
            reasoning_age=_age(reasoning.stamp_ns, now_ns, waited) if reasoning else UNKNOWN_AGE,
            keyframe_age=(
                _age(reasoning.keyframe_stamp_ns, now_ns, waited) if reasoning else UNKNOWN_AGE
            ),
            latency={},
            rung=reasoning.rung if reasoning else 0,
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
        """The newest reasoning of this bundle, by its stamp, that is not newer than the embedding.

        Without a stamp the one that arrived last has to do.
        """
        stamp_ns = embedding.stamp_ns
        fitting = [
            item
            for item in self._reasonings
            if item.reasoning.bundle_digest == embedding.bundle_digest
            and (not stamp_ns or item.reasoning.stamp_ns <= stamp_ns)
        ]
        if not stamp_ns:
            return fitting[-1] if fitting else None
        return max(fitting, key=lambda item: (item.reasoning.stamp_ns, item.at_s), default=None)

    def _judge(
        self, joined: _Joined, reasoning: Reasoning | None, stale: str
    ) -> tuple[Status, str]:
        """The first status that holds, and all that speaks against trusting the scene.

        A stale answer is certain, whatever the clocks show, so it precedes doubts.
        """
        doubt = joined.doubt
        level = reasoning.rung if reasoning else 0
        found = [
            (Status.NO_REASONING, self._why_none(joined.embedding) if reasoning is None else ""),
            (Status.STALE_REASONING, stale),
            (Status.DEGRADED, doubt.sentence if doubt else ""),
            (Status.DEGRADED, _of_level(level) if level else ""),
        ]
        holding = [(status, why) for status, why in found if why]
        status = holding[0][0] if holding else Status.OK
        return status, _joined_by(*(why for _, why in holding))

    def _why_stale(self, joined: _Joined, received: _Received) -> str:
        """Say why an answer is no longer the present; empty: it is.

        Its age is the largest of: the time since its arrival, its stamp compared with that of the
        frame from the same camera, and its stamp by the ROS clock if that is the camera's clock.
        """
        longest, now_s = self._settings.stale_after, joined.at_s
        if self.slow.missing(now_s, longest):
            return f"no reasoning for {self.slow.silence(now_s):.1f} s: {self._slow_remedy()}"
        stamp_ns, frame_ns = received.reasoning.stamp_ns, joined.embedding.stamp_ns
        ages = [now_s - received.at_s]
        if stamp_ns and frame_ns:
            apart = (frame_ns - stamp_ns) * NANOSECONDS
            ages.append(apart + max(0.0, now_s - joined.received_s))
        if joined.doubt is None or joined.doubt.age_known:
            ages.append(age_of(stamp_ns, joined.now_ns))
        if max(ages) <= longest:
            return ""
        return (
            f"the reasoning is {spell(max(ages))} old, more than {longest:g} s: use fewer "
            "questions or a lower max_caption_tokens of language_reasoner, or a longer stale_after"
        )

    def _slow_remedy(self) -> str:
        return self.slow_issue or "see what language_reasoner reports on /diagnostics"

    def _why_none(self, embedding: Embedding) -> str:
        newest = self._reasonings[-1].reasoning if self._reasonings else None
        if newest is None:
            remedy = self.slow_issue or "start language_reasoner, or take the tags alone"
            return f"no reasoning has arrived: {remedy}"
        if newest.bundle_digest != embedding.bundle_digest:
            return (
                f"the reasoning is from bundle {newest.bundle_digest[:12]} and the embedding "
                f"from {embedding.bundle_digest[:12]}: start both nodes with the same bundle"
            )
        ahead = (newest.stamp_ns - embedding.stamp_ns) * NANOSECONDS
        return (
            f"the newest reasoning is of an image taken {spell(ahead)} later than this one: use "
            "one camera and one clock on this graph's topics"
        )

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


def _age(stamp_ns: int, now_ns: int, least_s: float) -> float:
    """Seconds since a stamp, which is no less than the time since it came; negative: unknown."""
    age = age_of(stamp_ns, now_ns)
    return age if age == UNKNOWN_AGE else max(age, least_s)


def _of_level(level: int) -> str:
    return (
        f"the language node is degraded (level {level}): give it more cores, or lower its rate_hz "
        "or max_caption_tokens"
    )


def _joined_by(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))


def _latency(
    stamp_ns: int, received_s: float, reasoning: _Received | None, now_s: float, now_ns: int
) -> dict[str, float]:
    """Seconds from the capture of a frame to each station, as far as the stamps are known.

    Arrivals are monotonic times; the two clocks are read together only now.
    """
    latency: dict[str, float] = {}
    scene = age_of(stamp_ns, now_ns)
    if scene != UNKNOWN_AGE:
        latency["capture_to_scene"] = scene
        latency["capture_to_embedding"] = max(0.0, scene - max(0.0, now_s - received_s))
    if reasoning is not None:
        age = age_of(reasoning.reasoning.stamp_ns, now_ns)
        if age != UNKNOWN_AGE:
            waited = max(0.0, now_s - reasoning.at_s)
            latency["capture_to_reasoning"] = max(0.0, age - waited)
    return latency
