# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Joins the fast and the slow path: what is known now, how old it is, how far to trust it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlm_perception.perception.cadence import Cadence
from vlm_perception.perception.hazards import (
    ConflictWatch,
    Contradiction,
    Hazard,
    present_hazards,
)
from vlm_perception.types import UNKNOWN_AGE, Embedding, Reasoning, Scene, Status

NANOSECONDS = 1e-9
REMEMBERED_REASONINGS = 32
CLOCKS_APART_S = 0.1
"""Stamps further ahead of the clock than this come from a clock of their own."""
LATE_S = 2.0
"""An image that is older than this when its embedding arrives is not the present."""


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
    now_ns: int
    at_s: float
    conflicts: tuple[str, ...]


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
        self.fast, self.slow = Cadence(), Cadence()
        """How often embeddings and reasonings arrive."""
        self._last: _Joined | None = None
        self._last_embedding_ns = 0

    @property
    def empty(self) -> bool:
        """Whether no embedding has been joined, since the start or the last reset."""
        return self._last is None

    def reset(self) -> None:
        """Forget all that was received, as when time has jumped."""
        self._reasonings.clear()
        self._conflicts.reset()
        self._last = None
        self._last_embedding_ns = 0

    def add_reasoning(self, reasoning: Reasoning, received_s: float) -> None:
        """Take a reasoning in.

        Args:
            reasoning: what the slow path says.
            received_s: monotonic time of arrival.
        """
        self._reasonings.append(_Received(reasoning, received_s))
        self.slow.beat(received_s)

    def fuse(self, embedding: Embedding, received_s: float, now_ns: int) -> Scene:
        """Make the scene of an embedding.

        Args:
            embedding: what the fast path says.
            received_s: monotonic time of arrival.
            now_ns: time on the clock of the stamps; 0 when unknown.
        """
        self._forget_future(embedding.stamp_ns)
        self.fast.beat(received_s)
        now_s = self._clock()
        received = self._match(embedding)
        reasoning = received.reasoning if received is not None else None
        attributes = reasoning.attributes if reasoning else ()
        conflicts = self._conflicts.look(embedding.tags, attributes)
        self._last = _Joined(embedding, now_ns, now_s, conflicts)
        scene = self._scene(embedding, reasoning, conflicts, now_ns, now_s)
        latency = _latency(embedding.stamp_ns, received_s, received, now_s, now_ns)
        return replace(scene, latency=latency)

    def heartbeat(self, now_s: float, camera_alive: bool, longest_silence: float = 1.0) -> Scene:
        """The last frame again, older, with the reasoning that has come for it meanwhile.

        Once embeddings are missing, the status says so.

        Args:
            now_s: monotonic time.
            camera_alive: whether images still arrive, so that the encoder is at fault.
            longest_silence: seconds without an embedding from which they are missing; sooner
                where they used to come often.
        """
        status = Status.NO_EMBEDDING if camera_alive else Status.NO_CAMERA
        last = self._last
        missing = "embedding" if camera_alive else "image"
        if last is None:
            return self._empty(status, f"no {missing} has arrived yet")
        silent = max(0.0, now_s - last.at_s)
        # Not by the ROS clock, which may stand still together with the camera.
        now_ns = last.now_ns + round(silent / NANOSECONDS) if last.now_ns else 0
        received = self._match(last.embedding)
        reasoning = received.reasoning if received is not None else None
        scene = self._scene(last.embedding, reasoning, last.conflicts, now_ns, now_s)
        if silent < self.fast.missing_after(longest_silence):
            return scene
        return replace(scene, status=status, reason=f"no {missing} for {silent:.1f} s")

    def _scene(
        self,
        embedding: Embedding,
        reasoning: Reasoning | None,
        conflicts: tuple[str, ...],
        now_ns: int,
        now_s: float,
    ) -> Scene:
        status, reason = self._judge(embedding, reasoning, now_ns, now_s)
        attributes = reasoning.attributes if reasoning else ()
        fresh = attributes if status is not Status.STALE_REASONING else ()
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
            hazards=present_hazards(self._settings.hazards, embedding.tags, fresh),
            conflicts=conflicts,
            caption=reasoning.caption if reasoning else "",
            keyframe_stamp_ns=reasoning.keyframe_stamp_ns if reasoning else 0,
            embedding_age=_age(embedding.stamp_ns, now_ns),
            reasoning_age=_age(reasoning.stamp_ns, now_ns) if reasoning else UNKNOWN_AGE,
            keyframe_age=_age(reasoning.keyframe_stamp_ns, now_ns) if reasoning else UNKNOWN_AGE,
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
        self, embedding: Embedding, reasoning: Reasoning | None, now_ns: int, now_s: float
    ) -> tuple[Status, str]:
        if reasoning is None:
            return Status.NO_REASONING, self._why_none(embedding)
        if not embedding.stamp_ns:
            return Status.DEGRADED, "the camera sends no time stamps, ages are unknown"
        if doubt := _doubt(embedding.stamp_ns, now_ns):
            return Status.DEGRADED, doubt
        if stale := self._why_stale(reasoning, now_ns, now_s):
            return Status.STALE_REASONING, stale
        if reasoning.rung:
            return Status.DEGRADED, f"the language node saves work (rung {reasoning.rung})"
        return Status.OK, ""

    def _why_stale(self, reasoning: Reasoning, now_ns: int, now_s: float) -> str:
        longest, age = self._settings.stale_after, _age(reasoning.stamp_ns, now_ns)
        if age > longest:
            return f"the reasoning is {age:.1f} s old, more than {longest:g} s"
        if self.slow.missing(now_s, longest):
            return (
                f"no reasoning for {self.slow.silence(now_s):.1f} s; see what language_reasoner "
                "reports on /diagnostics"
            )
        return ""

    def _why_none(self, embedding: Embedding) -> str:
        newest = self._reasonings[-1].reasoning if self._reasonings else None
        if newest is not None and newest.bundle_digest != embedding.bundle_digest:
            return (
                f"the reasoning is from bundle {newest.bundle_digest[:12]} and the embedding "
                f"from {embedding.bundle_digest[:12]}"
            )
        return "no reasoning has arrived"

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


def _doubt(stamp_ns: int, now_ns: int) -> str:
    """Say why a stamp does not tell the age of its image; empty: it does."""
    if not now_ns:
        return "the ROS clock stands at 0, ages are unknown: let something publish /clock"
    ahead = (stamp_ns - now_ns) * NANOSECONDS
    if ahead > CLOCKS_APART_S:
        return f"the image's stamp lies {ahead:.1f} s in the future: set the camera's clock"
    if -ahead > LATE_S:
        return (
            f"the image was {-ahead:.1f} s old when its embedding came: set the camera's clock, or "
            "play bags with --clock and use_sim_time"
        )
    return ""


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
