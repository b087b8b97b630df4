# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the cameras of a language node share: the model, its questions, its answers to users."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.common.measurement_cache import kept
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.perception.device_tokens import DeviceTokens
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.interface import Language, Seen
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.newest_seen import NewestSeen
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.language.token_sampling import Sampling
from vlm_perception.perception.reasoning.degradation import LEVELS
from vlm_perception.perception.reasoning.question_answering import Asker
from vlm_perception.perception.reasoning.questions import kept_questions
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.temporal_state import TemporalState, bundle_attention
from vlm_perception.types import Attribute, Embedding

LONGEST_INSTRUCTION = 1000
PROMPT_ROOM = 256
"""Tokens that a question or an instruction may have, beside the longest answer to it."""
COSTS = "analysis_costs.json"
"""In the user's cache."""
UNDISTURBED = 0.7
"""Share of a measurement's time that the process was at work; below it others had the cores."""
CAPTION_MARGIN, LEAST_CAPTION_S = 3.0, 1.0
"""An automatic limit cuts a caption that takes this many times what the longest one was measured to
take, since other work delays it, and none that takes no longer than a second."""


class InstructionError(VlmPerceptionError):
    """An instruction cannot be followed; the message says why."""


@dataclass(frozen=True)
class Analysis:
    """The language model's outputs for one frame."""

    stamp_ns: int
    attributes: tuple[Attribute, ...]
    caption: str
    level: int
    """The effort it was made with, an index into LEVELS."""
    stages: Mapping[str, float]
    """Seconds that each stage took."""


class LanguageService:
    """A language model with the questions that it is asked of each key frame.

    It knows nothing of any stream. `analyse` belongs to one thread; the rest may be called from
    any.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        settings: ReasonerSettings | None = None,
        *,
        threads: int = 1,
        questions: Sequence[QuestionSpec] | None = None,
        clock: Callable[[], float] = time.monotonic,
        engine: str = ONNXRUNTIME,
        device_tokens: DeviceTokens | None = None,
        language: Language[Any, Any] | None = None,
    ) -> None:
        """Load the bundle's language model, unless another one is to be asked.

        Args:
            bundle: the model.
            settings: when to analyse and how much.
            threads: threads of the engines.
            questions: the typed questions; the bundle's own when None.
            clock: seconds, for stage times and budgets.
            engine: `onnxruntime`, `openvino`, `tensorrt` or `auto`.
            device_tokens: what it shares with an encoder in this process.
            language: the model to ask; the bundle's own when None.

        Raises:
            BundleError: the bundle has no language model, or lacks a file.
            PromptError: a question cannot be put to this model.
        """
        self.bundle = bundle
        self.settings = settings or ReasonerSettings()
        self.clock = clock
        self._threads = threads
        self._sampling = Sampling(
            self.settings.temperature, self.settings.top_p, self.settings.seed
        )
        self._language: Language[Any, Any] = language or LanguageModel(
            bundle,
            threads=threads,
            room=PROMPT_ROOM + self.settings.max_caption_tokens,
            clock=clock,
            engine=engine,
            device_tokens=device_tokens,
        )
        self.max_caption_s = self.settings.max_caption_s or self._language.deadline_s
        """Longest time for a caption in seconds; as long as the settings leave it to a measurement
        that was not made, that for an analysis."""
        chosen = bundle.manifest.questions if questions is None else tuple(questions)
        few = kept_questions(chosen, self.settings.keep_questions)
        self._packed, self._packed_few = map(self._language.pack, (chosen, few))
        self._newest_seen = NewestSeen(self._language)
        self.asker = Asker(
            bundle,
            self._language,
            self._newest_seen,
            chosen,
            sampling=self._sampling,
            clock=clock,
        )
        """Answers questions about now, from any thread."""
        width = bundle.manifest.vision.embedding_width
        self._blank_state = TemporalState(width, bundle_attention(bundle))

    @property
    def engine_name(self) -> str:
        """Engine and version, for diagnostics."""
        return self._language.engine_name

    @property
    def language(self) -> Language[Any, Any]:
        """The model that is asked."""
        return self._language

    def read(self, embedding: Embedding) -> Any:
        """Return a frame as the model reads it; the newest one is read once."""
        return self._newest_seen.of(embedding)

    def warm_up(self) -> None:
        """Check the engines against the bundle's stored outputs, and analyse a blank image.

        Afterwards they have allocated, and it is known how long their calls take.

        Raises:
            BundleError: an engine gives other outputs than were stored.
        """
        self._language.verify()
        self.bundle.verify_golden(self._blank_state.engines)
        self._language.warm_up(self._packed)

    def measure(self) -> AnalysisCost:
        """Time an analysis by the service's clock, and take an automatic `max_caption_s` from it.

        Call it after `warm_up`.
        """
        return self._take(self._language.measure(self._packed, {}))

    def measure_once(self) -> AnalysisCost:
        """As `measure`, once for each machine, bundle, engine and length of the questions.

        A measurement is made again at the next start when other programs took the cores meanwhile.
        """
        question = {
            "bundle": self.bundle.digest,
            "engine": self.engine_name,
            "threads": self._threads,
            "question_tokens": self._packed.tokens,
            "cpu": cpu_model(),
            "cores": cpu_count(),
        }

        def measure() -> tuple[AnalysisCost, bool]:
            began, worked = time.perf_counter(), time.process_time()
            cost = self._language.measure(self._packed, question)
            share = (time.process_time() - worked) / (time.perf_counter() - began)
            return cost, share >= UNDISTURBED

        return self._take(kept(COSTS, AnalysisCost, question, measure))

    def _take(self, cost: AnalysisCost) -> AnalysisCost:
        if not self.settings.max_caption_s:
            longest = cost.caption_s(self.settings.max_caption_tokens)
            self.max_caption_s = round(max(LEAST_CAPTION_S, CAPTION_MARGIN * longest), 3)
        return cost

    def temporal_state(self) -> TemporalState:
        """Return a memory of embeddings with nothing in it, for one stream; engines are shared."""
        return self._blank_state.copy()

    def check_instruction(self, text: str) -> None:
        """Refuse an instruction that leaves no room for a caption.

        Raises:
            InstructionError: the text is too long or no valid Unicode.
        """
        if len(text) > LONGEST_INSTRUCTION:
            raise InstructionError(
                f"the instruction has {len(text)} characters; at most {LONGEST_INSTRUCTION} are "
                "accepted; shorten it"
            )
        try:
            self._language.check_prompt(text, reserve=self.settings.max_caption_tokens)
        except PromptError as error:
            raise InstructionError(str(error)) from error

    def analyse(self, embedding: Embedding, instruction: str, level: int) -> Analysis:
        """Answer the questions about a frame and write its caption.

        Args:
            embedding: the frame, with what the language model reads.
            instruction: what the caption is to follow; empty: the bundle's own prompt.
            level: the effort, an index into LEVELS.

        Raises:
            EmbeddingError: the patch tokens hold NaN or infinity.
            PromptError: there are more tokens than the bundle was made for.
            EngineError: the tokens have another width.
        """
        language, effort, settings = self._language, LEVELS[level], self.settings
        began = self.clock()
        end = began + self._language.deadline_s
        seen = self._newest_seen.of(embedding, effort.image)
        prefilled = self.clock()
        attributes = language.answer(
            seen,
            self._packed if effort.all_questions else self._packed_few,
            wait_s=end - prefilled,
        )
        answered = self.clock()
        caption = language.generate(
            seen,
            instruction or language.caption_prompt,
            max_tokens=math.ceil(settings.max_caption_tokens * effort.caption),
            budget_s=self.max_caption_s * effort.caption,
            wait_s=end - answered,
            sampling=self._sampling,
        )
        language.remember(seen)
        return Analysis(
            stamp_ns=embedding.stamp_ns,
            attributes=attributes,
            caption=caption.text if caption.finished else (caption.text + UNFINISHED).lstrip(),
            level=level,
            stages={
                **_reading_stages(prefilled - began, seen),
                "questions": answered - prefilled,
                "caption": self.clock() - answered,
            },
        )


def _reading_stages(seconds: float, seen: Seen) -> dict[str, float]:
    """What reading a frame took: next to nothing where it was read before."""
    if not seen.tower_s:
        return {"prefill": seconds}
    tower_s = min(seen.tower_s, seconds)
    return {"tower": tower_s, "prefill": seconds - tower_s}
