# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How long a language model takes for each step of a frame's analysis."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.types import Embedding


@dataclass(frozen=True)
class SceneTimes:
    """Seconds of the steps of one frame's analysis."""

    reading: float
    """With a vision tower of its own, where it has one, and the prefill."""
    tower: float
    """Of that, of such a tower."""
    one_question: float
    questions: float
    """All of them, packed into one sequence."""
    first_token: float
    """Of the caption, after the prefilled image."""
    caption: float
    """With the first token."""
    tokens: int
    """Of the caption, with the one that ends it."""

    @property
    def analysis(self) -> float:
        """What a key frame costs."""
        return self.reading + self.questions + self.caption


def time_scene(
    bundle: ModelBundle,
    language: LanguageModel,
    embedding: Embedding,
    clock: Callable[[], float] = time.perf_counter,
) -> SceneTimes:
    """Analyse a frame as the reasoner does, and answer one question alone."""
    questions = bundle.manifest.questions
    one, everything = language.pack(questions[:1]), language.pack(questions)
    prompt, most = language.spec.caption_prompt, ReasonerSettings.max_caption_tokens
    start = clock()
    prefix = language.read(embedding)
    prefilled = clock()
    language.answer(prefix, one)
    answered_one = clock()
    language.answer(prefix, everything)
    answered = clock()
    caption = language.stream(prefix, prompt, max_tokens=most)
    next(caption)
    begun = clock()
    rest = sum(1 for _ in caption)
    return SceneTimes(
        reading=prefilled - start,
        tower=prefix.tower_s,
        one_question=answered_one - prefilled,
        questions=answered - answered_one,
        first_token=begun - answered,
        caption=clock() - answered,
        tokens=1 + rest,
    )
