# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The slow path: analyses key frames and carries the results through the frames in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.embedding_checks import require_readable
from vlm_perception.perception.reasoning.answer_memory import AnswerMemory
from vlm_perception.perception.reasoning.keyframes import Decision, KeyframePolicy, KeyframeSettings
from vlm_perception.perception.reasoning.language_service import Analysis, LanguageService
from vlm_perception.perception.reasoning.overtaking import EARLY, InHand, OvertakenError
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.temporal_state import Attended, TemporalState
from vlm_perception.types import UNKNOWN, Attribute, Embedding, Reasoning, Trigger

BREAKS = (Trigger.FIRST, Trigger.TIME_JUMP)
"""Key frames before which nothing that was answered counts any more."""


@dataclass(frozen=True)
class _Instruction:
    text: str
    version: int


@dataclass(frozen=True)
class _Anchor:
    """The key frame that the frames after it rely on."""

    analysis: Analysis
    instruction: _Instruction


@dataclass(frozen=True)
class Decided:
    """A frame of which is known whether it is a key frame, and what is to be remembered of it."""

    decision: Decision
    attended: Attended
    instruction: _Instruction
    policy: KeyframePolicy
    temporal: TemporalState
    resets: int
    doubts: int
    """The temporal state and the policy at this frame, and how many resets and doubts they
    include."""
    began_s: float

    @property
    def is_keyframe(self) -> bool:
        """Whether the language model is to read the frame."""
        return self.decision.is_keyframe


class Reasoner:
    """One camera's stream of embeddings: its anchor, its memories and its instruction.

    `decide`, `conclude` and `reason` of all that share a language service belong to one thread,
    `overtake` to another one; the rest may be called from any.
    """

    def __init__(self, service: LanguageService, *, run_id: str = "") -> None:
        """Know nothing of any frame.

        Args:
            service: analyses the key frames.
            run_id: is written into each reasoning.
        """
        self._service = service
        self._run_id = run_id
        self._lock = threading.Lock()
        self._instruction = _Instruction("", 0)
        self._policy = KeyframePolicy(_keyframe_settings(service.settings))
        self._temporal = service.temporal_state()
        self._answers = AnswerMemory()
        self._resets = self._heeded_resets = 0
        self._conflicts: frozenset[str] = frozenset()
        self._doubts = self._heeded_doubts = 0
        self._anchor: _Anchor | None = None
        self._gate = threading.Lock()
        self._in_hand: InHand | None = None
        self._usual_s = 0.0
        """What the last analysis took."""
        self._restless = False
        """Whether the last frame in hand was out of date before its answer was there. If that ended
        each analysis, a scene that changes all the time would have none."""
        self.overtaken = 0
        """Analyses that were given up for a newer frame."""

    def set_instruction(self, text: str) -> int:
        """Steer the caption from the next frame on; an empty text takes the instruction back.

        The text that is in force already changes nothing, the version neither.

        Returns:
            The version that reasonings with this instruction carry.

        Raises:
            InstructionError: the text is too long or no valid Unicode; the old one stays.
        """
        text = text.strip()
        self._service.check_instruction(text)
        with self._lock:
            if text != self._instruction.text:
                self._instruction = _Instruction(text, self._instruction.version + 1)
            return self._instruction.version

    def reset(self) -> None:
        """Forget the anchor, since time has jumped; the next frame is analysed."""
        with self._lock:
            self._resets += 1

    def note_conflicts(self, conflicts: Collection[str]) -> None:
        """Hear on what the scene's two paths disagree now; a new conflict asks for a key frame."""
        with self._lock:
            self._doubts += not self._conflicts.issuperset(conflicts)
            self._conflicts = frozenset(conflicts)

    def reason(self, embedding: Embedding, level: int = 0) -> Reasoning:
        """Analyse a frame if it is a key frame, else rely on the results of the last ones.

        Args:
            embedding: the frame, with what the language model reads.
            level: the effort of an analysis, an index into LEVELS.

        Raises:
            BundleMismatchError: the embedding comes from another bundle.
            EmbeddingError: the embedding holds NaN or infinity, or has another width.
        """
        return self.conclude(self.decide(embedding), embedding, level)

    def decide(self, embedding: Embedding) -> Decided:
        """Find out whether a frame is a key frame; what the language model reads is not looked at.

        Nothing is remembered of the frame before `conclude`. Where that is left out, the next frame
        is decided on as if there had been none.

        Raises:
            BundleMismatchError: the embedding comes from another bundle.
            EmbeddingError: the pooled embedding holds NaN or infinity.
        """
        require_readable(embedding, self._service.bundle)
        began_s = self._service.clock()
        with self._lock:
            instruction, resets, doubts = self._instruction, self._resets, self._doubts
        policy, temporal = self._policy.copy(), self._temporal.copy()
        if doubts != self._heeded_doubts:
            policy.ask()
        if resets != self._heeded_resets:
            policy.reset()
            temporal.reset()
        attended = temporal.attend(embedding.pooled, embedding.stamp_ns)
        decision = policy.decide(embedding, attended, instruction.version)
        return Decided(decision, attended, instruction, policy, temporal, resets, doubts, began_s)

    def conclude(self, decided: Decided, embedding: Embedding, level: int = 0) -> Reasoning:
        """Reason on the frame that was decided on last.

        Args:
            decided: what `decide` returned.
            embedding: the same frame; that of a key frame with what the language model reads.
            level: the effort of an analysis, an index into LEVELS.

        Raises:
            EmbeddingError: the patch tokens hold NaN or infinity.
            PromptError: there are more tokens than the bundle was made for.
            EngineError: the tokens have another width.
            OvertakenError: `overtake` has ended the analysis; nothing is remembered of the frame.
        """
        attended, decision, instruction = decided.attended, decided.decision, decided.instruction
        anchor = self._anchor
        stages: dict[str, float] = {}
        # Without an anchor each frame is a key frame.
        if decision.is_keyframe or anchor is None:
            analysis = self._analyse(decided, embedding, level)
            stages |= analysis.stages
            if decision.trigger in BREAKS:
                self._answers.reset()
            self._anchor = anchor = _Anchor(analysis, instruction)
            decided.policy.set_anchor(embedding, attended, instruction.version)
            self._answers.add(attended, embedding.stamp_ns, analysis.attributes)
        self._policy, self._temporal = decided.policy, decided.temporal
        self._heeded_resets, self._heeded_doubts = decided.resets, decided.doubts
        service, analysis = self._service, anchor.analysis
        stages["total"] = service.clock() - decided.began_s
        return Reasoning(
            stamp_ns=embedding.stamp_ns,
            frame_id=embedding.frame_id,
            run_id=self._run_id,
            bundle_digest=service.bundle.digest,
            keyframe_stamp_ns=analysis.stamp_ns,
            is_keyframe=decision.is_keyframe,
            trigger=decision.trigger.value,
            drift=decision.drift,
            caption=analysis.caption,
            attributes=_confident(self._answers.read(attended), service.settings.confidence_floor),
            instruction=anchor.instruction.text,
            instruction_version=anchor.instruction.version,
            vocabulary_version=embedding.vocabulary_version,
            rung=max(level, analysis.level),
            stages=stages,
        )

    @property
    def is_analysing(self) -> bool:
        """Whether a frame is in hand that `overtake` may let go of."""
        return self._in_hand is not None

    def overtake(self, embedding: Embedding, end: Callable[[], bool]) -> None:
        """End the analysis in hand if a newer frame shows that its answer will be out of date.

        It is not ended late, nor where the frame in hand before it was out of date, too: then the
        scene changes all the time, and each answer is waited for.

        Args:
            embedding: the newer frame; what the language model reads is not looked at.
            end: ends what the thread of `conclude` waits for; returns whether it could.

        Raises:
            BundleMismatchError: the embedding comes from another bundle.
            EmbeddingError: the pooled embedding holds NaN or infinity.
        """
        require_readable(embedding, self._service.bundle)
        with self._lock:
            version = self._instruction.version
        # Meanwhile the other thread stays out of the engines of the temporal state.
        with self._gate:
            if self._in_hand is not None:
                self._in_hand.see(embedding, version, self._service.clock(), end)

    def _analyse(self, decided: Decided, embedding: Embedding, level: int) -> Analysis:
        """Analyse a key frame, while `overtake` may end that."""
        instruction, attended = decided.instruction, decided.attended
        began_s = self._service.clock()
        early_s = 0.0 if self._restless else EARLY * self._usual_s
        policy = decided.policy.ahead(embedding, attended, instruction.version)
        in_hand = InHand(embedding, policy, decided.temporal.copy(), began_s + early_s)
        try:
            with self._hold(in_hand):
                analysis = self._service.analyse(embedding, instruction.text, level)
        except VlmPerceptionError as error:
            if not in_hand.overtaken:
                raise
            self.overtaken += 1
            raise OvertakenError("a newer frame is analysed instead") from error
        self._usual_s = self._service.clock() - began_s
        return analysis

    @contextmanager
    def _hold(self, in_hand: InHand) -> Iterator[None]:
        with self._gate:
            self._in_hand = in_hand
        try:
            yield
        finally:
            with self._gate:
                self._in_hand = None
            self._restless = in_hand.outdated


def _confident(attributes: tuple[Attribute, ...], floor: float) -> tuple[Attribute, ...]:
    """Call a value unknown where its probability is below the floor, or not known under one."""
    return tuple(
        replace(attribute, value=UNKNOWN) if (attribute.probability or 0.0) < floor else attribute
        for attribute in attributes
    )


def _keyframe_settings(settings: ReasonerSettings) -> KeyframeSettings:
    return KeyframeSettings(
        drift_threshold=settings.drift_threshold,
        max_age=settings.max_keyframe_age,
        min_interval=settings.min_keyframe_interval,
        max_stamp_gap=settings.max_stamp_gap,
        force=settings.force_keyframes,
    )
