# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a bundle POPE's questions: which of yes and no is likelier, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LONGEST_TEXT, QuestionSpec
from vlm_perception.evaluation.journal import Journal, image_key
from vlm_perception.evaluation.pope.metrics import Record
from vlm_perception.evaluation.pope.questions import NO, YES, PopeError, Question
from vlm_perception.evaluation.pope.sets import PopeSet
from vlm_perception.media.image_errors import ImageError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.preprocess import FrameError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MOST_TOKENS = 32
"""Of a written answer; the published rules read its first sentence only."""
AT_A_TIME = 16
"""Questions in one run of the decoder."""
SHOWN = 40
"""Characters of a question that a sentence shows."""

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
        """Refuse questions that cannot be asked, before the first is.

        Raises:
            PopeError: one is longer than a bundle's questions may be.
            PromptError: one leaves no room for an answer.
        """
        for text in dict.fromkeys(texts):
            if len(text) > LONGEST_TEXT:
                raise PopeError(
                    f"the question {text[:SHOWN]!r}… has {len(text)} characters, and a bundle is "
                    f"asked {LONGEST_TEXT} at most; shorten it"
                )
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

    What the journal holds goes by an image's pixels and a question's text: it serves whichever
    other images or questions there are in the next run.

    Raises:
        PopeError: a question is too long, or all images of a set are broken.
        PromptError: a question leaves no room for an answer.
        FolderImagesError: an image broke since it was tried, and is not to be left out.
    """
    texts: dict[str, dict[str, None]] = {}
    for questions in asked.questions.values():
        for question in questions:
            texts.setdefault(question.image, {})[question.text] = None
    polled.check(text for each in texts.values() for text in each)
    answers: dict[str, Mapping[str, Answered]] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("Asking", total=len(texts))
        for image, read in asked.pictures():
            if image in texts:
                try:
                    answers[image] = _answers(polled, read(), list(texts[image]), journal)
                except (ImageError, FrameError) as error:
                    asked.leave_out(image, error)
                progress.advance(task)
    return [
        _record(split, question, answers[question.image][question.text])
        for split, questions in asked.questions.items()
        for question in questions
    ]


def _answers(
    polled: Polled, image: NDArray[np.uint8], texts: Sequence[str], journal: Journal
) -> Mapping[str, Answered]:
    """The answers to these questions and to others about the same pixels."""
    key = image_key(image)
    found: dict[str, Answered] = journal.items.get(key, {})
    missing = [text for text in texts if text not in found]
    if missing:
        found = {**found, **polled.ask(image, missing)}
        journal.add(key, found)
    return found


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
