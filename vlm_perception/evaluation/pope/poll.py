# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a bundle POPE's questions: which of yes and no is likelier, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.pope.metrics import Record
from vlm_perception.evaluation.pope.questions import NO, YES, Question
from vlm_perception.evaluation.pope.sets import PopeSet
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MOST_TOKENS = 32
"""Of a written answer; the published rules read its first sentence only."""
AT_A_TIME = 16
"""Questions in one run of the decoder."""

Answered = tuple[str, float, str]
"""The likelier of YES and NO, the probability of YES, and what was written."""


class Polled:
    """A bundle that is asked whether objects are in images."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load its networks.

        Raises:
            BundleError: it has no language model, or cannot be used.
        """
        self.digest = bundle.digest
        self._encoder = VisionEncoder(bundle, threads=2, temporal=False)
        self._language = LanguageModel(bundle, threads=2)

    def check(self, texts: Iterable[str]) -> None:
        """Refuse questions that leave no room for an answer, before the first is asked.

        Raises:
            PromptError: there is one.
        """
        for text in dict.fromkeys(texts):
            self._language.check_prompt(text, MOST_TOKENS)

    def ask(self, image: NDArray[np.uint8], texts: Sequence[str]) -> dict[str, Answered]:
        """Ask several questions about one image, uint8 RGB [height, width, 3]."""
        prefix = self._language.read(self._encoder.encode(Frame(image, 0), 0))
        found: dict[str, Answered] = {}
        for first in range(0, len(texts), AT_A_TIME):
            asked = [
                QuestionSpec(name=str(index), question=text, choices=(YES, NO))
                for index, text in enumerate(texts[first : first + AT_A_TIME])
            ]
            answers = self._language.answer(prefix, self._language.pack(asked))
            for spec, answer in zip(asked, answers, strict=True):
                written = self._language.generate(prefix, spec.question, max_tokens=MOST_TOKENS)
                found[spec.question] = (answer.value, answer.probabilities[0], written.text)
        return found


def poll(polled: Polled, asked: PopeSet, journal: Journal) -> list[Record]:
    """Ask everything that the journal does not hold yet; a question of several sets is asked once.

    Raises:
        PromptError: a question leaves no room for an answer.
        ImageError: an image was altered since it was tried.
    """
    texts: dict[str, dict[str, None]] = {}
    for questions in asked.questions.values():
        for question in questions:
            texts.setdefault(question.image, {})[question.text] = None
    polled.check(text for each in texts.values() for text in each)
    with Progress(transient=True) as progress:
        task = progress.add_task("Asking", total=len(texts))
        for image, read in asked.pictures():
            if image in texts and image not in journal.items:
                journal.add(image, polled.ask(read(), list(texts[image])))
            progress.update(task, completed=len(journal.items))
    return [
        _record(split, question, journal.items[question.image][question.text])
        for split, questions in asked.questions.items()
        for question in questions
    ]


def _record(split: str, question: Question, answered: Answered) -> Record:
    likelier, p_yes, written = answered
    return Record(
        split,
        question.question_id,
        question.image,
        question.text,
        question.label,
        written,
        likelier,
        p_yes,
    )
