# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The slow path: analyses key frames and carries what they say through the frames in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.choose import ONNXRUNTIME
from vlm_perception.perception.language.model import LanguageModel, PromptError
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.perception.language.prefix_cache import NewestPrefix, require_readable
from vlm_perception.perception.language.token_sampling import Sampling
from vlm_perception.perception.reasoning.answer_memory import AnswerMemory
from vlm_perception.perception.reasoning.degradation import RUNGS
from vlm_perception.perception.reasoning.keyframes import Decision, KeyframePolicy, KeyframeSettings
from vlm_perception.perception.reasoning.question_answering import Asker
from vlm_perception.perception.reasoning.questions import kept_questions
from vlm_perception.perception.vision.temporal_state import (
    Attended,
    TemporalState,
    bundle_attention,
)
from vlm_perception.types import Attribute, Embedding, Reasoning, Trigger

LONGEST_INSTRUCTION = 1000
UNKNOWN = "unknown"
"""Value of an attribute whose likeliest choice is not likely enough."""
BREAKS = (Trigger.FIRST, Trigger.TIME_JUMP)
"""Key frames before which nothing that was answered counts any more."""
PROMPT_ROOM = 256
"""Tokens that a question or an instruction may have, beside the longest answer to it."""


class InstructionError(VlmPerceptionError):
    """An instruction cannot be followed; the message says why."""


@dataclass(frozen=True)
class ReasonerSettings:
    """How often and how much to analyse; times in seconds, those of key frames by stamps."""

    drift_threshold: float = 0.0
    max_keyframe_age: float = 1.0
    min_keyframe_interval: float = 0.0
    max_caption_tokens: int = 40
    max_caption_s: float = 1.0
    temperature: float = 0.0
    """Of captions, free answers and descriptions, as `top_p` and `seed` are; 0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    max_stamp_gap: float = 5.0
    force_keyframes: bool = False
    confidence_floor: float = 0.0
    """Probability below which the likeliest choice is not given as an attribute's value."""
    keep_questions: tuple[str, ...] = ()
    """Names of those that a rung with fewer questions asks; none: the first half."""


@dataclass(frozen=True)
class _Instruction:
    text: str
    version: int


@dataclass(frozen=True)
class _Analysis:
    """What was said of the anchor."""

    stamp_ns: int
    caption: str
    instruction: _Instruction
    rung: int


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
    """The temporal state and the policy as they stand with this frame, and how many resets and
    doubts they know of."""
    began_s: float

    @property
    def is_keyframe(self) -> bool:
        """Whether the language model is to read the frame."""
        return self.decision.is_keyframe


class Reasoner:
    """A bundle's language model over a stream of embeddings.

    `decide`, `conclude` and `reason` belong to one thread; the rest may be called from any.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        settings: ReasonerSettings | None = None,
        *,
        threads: int = 1,
        run_id: str = "",
        questions: Sequence[QuestionSpec] | None = None,
        clock: Callable[[], float] = time.monotonic,
        engine: str = ONNXRUNTIME,
    ) -> None:
        """Load the language model, if the bundle has one.

        Args:
            bundle: the model.
            settings: when to analyse and how much.
            threads: threads of the engines.
            run_id: is written into each reasoning.
            questions: the typed questions; the bundle's own when None.
            clock: seconds, for stage times and budgets.
            engine: `onnxruntime`, `openvino`, `tensorrt` or `auto`.

        Raises:
            BundleError: the bundle lacks a file.
            PromptError: a question cannot be put to this model.
        """
        self._bundle = bundle
        self._settings = settings or ReasonerSettings()
        self._run_id = run_id
        self._clock = clock
        self._begin()
        self._language: LanguageModel | None = None
        self.asker: Asker | None = None
        """Answers questions about now, from any thread; None without a language model."""
        if bundle.manifest.language is not None:
            room = PROMPT_ROOM + self._settings.max_caption_tokens
            self._language = LanguageModel(
                bundle, threads=threads, room=room, clock=clock, engine=engine
            )
            chosen = bundle.manifest.questions if questions is None else tuple(questions)
            few = kept_questions(chosen, self._settings.keep_questions)
            self._packed, self._packed_few = map(self._language.pack, (chosen, few))
            self._prefixes = NewestPrefix(self._language)
            self.asker = Asker(
                bundle,
                self._language,
                self._prefixes,
                chosen,
                sampling=_sampling(self._settings),
                clock=clock,
            )

    def _begin(self) -> None:
        """Know nothing of any frame."""
        self._lock = threading.Lock()
        self._instruction = _Instruction("", 0)
        self._policy = KeyframePolicy(_keyframe_settings(self._settings))
        width = self._bundle.manifest.vision.embedding_width
        self._temporal = TemporalState(width, bundle_attention(self._bundle))
        self._answers = AnswerMemory()
        self._resets = self._heeded_resets = 0
        self._conflicts: frozenset[str] = frozenset()
        self._doubts = self._heeded_doubts = 0
        self._analysis: _Analysis | None = None

    def for_another_camera(self) -> Reasoner:
        """Return a reasoner over another stream that shares the language model with this one.

        Anchor, memories and instruction are its own. `decide`, `conclude` and `reason` of all that
        share belong to one thread.
        """
        other = copy(self)
        other._begin()
        return other

    @property
    def has_language(self) -> bool:
        """Whether the bundle can reason at all."""
        return self._language is not None

    @property
    def engine_name(self) -> str:
        """Engine and version, for diagnostics; empty without a language model."""
        return self._language.engine_name if self._language is not None else ""

    def warm_up(self) -> None:
        """Check the engines against the bundle's stored outputs, and analyse a blank image.

        Afterwards they have allocated, and it is known how long their calls take.

        Raises:
            BundleError: an engine gives other outputs than were stored.
        """
        if self._language is not None:
            self._language.verify()
            self._bundle.verify_golden(self._temporal.engines)
            self._language.warm_up(self._packed)

    def set_instruction(self, text: str) -> int:
        """Steer the caption from the next frame on; an empty text takes the instruction back.

        The text that is in force already changes nothing, the version neither.

        Returns:
            The version that reasonings with this instruction carry.

        Raises:
            InstructionError: the text is too long or no valid Unicode; the old one stays.
        """
        text = text.strip()
        self._check_instruction(text)
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

    def reason(self, embedding: Embedding, rung: int = 0) -> Reasoning:
        """Analyse a frame if it is a key frame, else rely on what was said of the last ones.

        Args:
            embedding: the frame, with its patch tokens.
            rung: the effort of an analysis, an index into RUNGS.

        Raises:
            BundleMismatchError: the embedding comes from another bundle.
            EmbeddingError: the embedding holds NaN or infinity, or has another width.
            PromptError: the bundle has no language model.
        """
        return self.conclude(self.decide(embedding), embedding, rung)

    def decide(self, embedding: Embedding) -> Decided:
        """Find out whether a frame is a key frame; its patch tokens are not looked at.

        Nothing is remembered of the frame before `conclude`. Where that is left out, the next frame
        is decided on as if there had been none.

        Raises:
            BundleMismatchError: the embedding comes from another bundle.
            EmbeddingError: the pooled embedding holds NaN or infinity.
            PromptError: the bundle has no language model.
        """
        self._require_language()
        require_readable(embedding, self._bundle)
        began_s = self._clock()
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

    def conclude(self, decided: Decided, embedding: Embedding, rung: int = 0) -> Reasoning:
        """Reason on the frame that was decided on last.

        Args:
            decided: what `decide` returned.
            embedding: the same frame; that of a key frame with its patch tokens.
            rung: the effort of an analysis, an index into RUNGS.

        Raises:
            EmbeddingError: the patch tokens hold NaN or infinity.
            PromptError: there are more tokens than the bundle was made for.
            EngineError: the tokens have another width.
        """
        attended, decision = decided.attended, decided.decision
        stages: dict[str, float] = {}
        analysis = self._analysis
        # Without an anchor each frame is a key frame.
        if decision.is_keyframe or analysis is None:
            analysis, attributes = self._analyse(embedding, decided.instruction, rung, stages)
            if decision.trigger in BREAKS:
                self._answers.reset()
            self._analysis = analysis
            decided.policy.set_anchor(embedding, attended, decided.instruction.version)
            self._answers.add(attended, embedding.stamp_ns, attributes)
        self._policy, self._temporal = decided.policy, decided.temporal
        self._heeded_resets, self._heeded_doubts = decided.resets, decided.doubts
        stages["total"] = self._clock() - decided.began_s
        return Reasoning(
            stamp_ns=embedding.stamp_ns,
            frame_id=embedding.frame_id,
            run_id=self._run_id,
            bundle_digest=self._bundle.digest,
            keyframe_stamp_ns=analysis.stamp_ns,
            is_keyframe=decision.is_keyframe,
            trigger=decision.trigger.value,
            drift=decision.drift,
            caption=analysis.caption,
            attributes=_confident(self._answers.read(attended), self._settings.confidence_floor),
            instruction=analysis.instruction.text,
            instruction_version=analysis.instruction.version,
            vocabulary_version=embedding.vocabulary_version,
            rung=max(rung, analysis.rung),
            stages=stages,
        )

    def _analyse(
        self,
        embedding: Embedding,
        instruction: _Instruction,
        rung: int,
        stages: dict[str, float],
    ) -> tuple[_Analysis, tuple[Attribute, ...]]:
        language, effort, settings = self._require_language(), RUNGS[rung], self._settings
        began = self._clock()
        prefix = self._prefixes.of(embedding)
        prefilled = self._clock()
        attributes = language.answer(
            prefix, self._packed if effort.all_questions else self._packed_few
        )
        answered = self._clock()
        caption = language.generate(
            prefix,
            instruction.text or language.spec.caption_prompt,
            max_tokens=math.ceil(settings.max_caption_tokens * effort.caption),
            budget_s=settings.max_caption_s * effort.caption,
            sampling=_sampling(settings),
        )
        stages["prefill"] = prefilled - began
        stages["questions"] = answered - prefilled
        stages["caption"] = self._clock() - answered
        analysis = _Analysis(
            stamp_ns=embedding.stamp_ns,
            caption=caption.text if caption.finished else (caption.text + UNFINISHED).lstrip(),
            instruction=instruction,
            rung=rung,
        )
        return analysis, attributes

    def _require_language(self) -> LanguageModel:
        if self._language is None:
            raise PromptError(
                f"bundle {self._bundle.manifest.name} holds no language model; run without the "
                "language node, or use a bundle that was exported with vlm/"
            )
        return self._language

    def _check_instruction(self, text: str) -> None:
        if len(text) > LONGEST_INSTRUCTION:
            raise InstructionError(
                f"the instruction has {len(text)} characters; at most {LONGEST_INSTRUCTION} are "
                "taken"
            )
        if self._language is not None:
            try:
                self._language.check_prompt(text, reserve=self._settings.max_caption_tokens)
            except PromptError as error:
                raise InstructionError(str(error)) from error


def _confident(attributes: tuple[Attribute, ...], floor: float) -> tuple[Attribute, ...]:
    """Call a value unknown where its probability is below the floor."""
    return tuple(
        replace(attribute, value=UNKNOWN) if max(attribute.probabilities) < floor else attribute
        for attribute in attributes
    )


def _sampling(settings: ReasonerSettings) -> Sampling:
    return Sampling(settings.temperature, settings.top_p, settings.seed)


def _keyframe_settings(settings: ReasonerSettings) -> KeyframeSettings:
    return KeyframeSettings(
        drift_threshold=settings.drift_threshold,
        max_age=settings.max_keyframe_age,
        min_interval=settings.min_keyframe_interval,
        max_stamp_gap=settings.max_stamp_gap,
        force=settings.force_keyframes,
    )
