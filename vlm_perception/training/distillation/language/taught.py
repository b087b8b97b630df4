# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of images without any truth: their captions, and what a teacher says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT
from vlm_perception.training.distillation.language.dialogues import (
    ANSWER,
    CAPTION,
    CAPTION_WEIGHT,
    TAUGHT_CAPTION,
    Dialogues,
    Segment,
)
from vlm_perception.training.distillation.language.scenes import Known
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.distillation.student.batches import resampled
from vlm_perception.training.distillation.teacher.language import Words
from vlm_perception.training.distillation.teacher.store import Taught

QUESTIONS_ROOM = 192
"""Tokens for the typed questions of a scene in one step, unless a single one needs more."""
Place = tuple[int, int]
"""Number of an image, and that of its view."""


class ImageCaptions(Known):
    """Captions that images have themselves."""

    def __init__(
        self,
        views: Sequence[Place],
        captions: Callable[[int, int], Sequence[str]],
        dialogues: Dialogues,
    ) -> None:
        """Read them.

        Args:
            views: of each scene.
            captions: those of a view of an image.
            dialogues: how they are worded.
        """
        self._dialogues = dialogues
        self._captions = [tuple(filter(str.strip, captions(*view))) for view in views]
        segments = (self._segment(text) for each in self._captions for text in each)
        self.room = max((segment.length for segment in segments), default=0)

    def says(self, scene: int) -> bool:
        """Whether it has one."""
        return bool(self._captions[scene])

    def segments(self, scene: int, rng: np.random.Generator) -> list[Segment]:
        """One of them."""
        captions = self._captions[scene]
        return [self._segment(captions[int(rng.integers(len(captions)))])] if captions else []

    def _segment(self, text: str) -> Segment:
        return self._dialogues.segment(CAPTION_PROMPT, text, CAPTION, CAPTION_WEIGHT)


class TaughtCaptions(Known):
    """Captions of a teacher, with the probability of each token where tokens are one for one."""

    def __init__(
        self,
        views: Sequence[Sequence[Place]],
        words: Mapping[Place, Words],
        dialogues: Dialogues,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        """Word them; one that is empty or was cut off is left out.

        Args:
            views: of each scene, of which one is drawn for each step.
            words: of each view.
            dialogues: how they are worded.
            tokenizer: the student's.

        Raises:
            DistillationError: there is no caption that can be used.
        """
        self._dialogues, self._tokenizer, self._pieces = dialogues, tokenizer, dict[int, str]()
        self._said = [
            [words[view] for view in each if words[view].ended and words[view].caption]
            for each in views
        ]
        segments = [self._segment(each) for said in self._said for each in said]
        if not segments:
            raise DistillationError(
                "the teacher has no caption that it ended itself, so that none can be learned; "
                "let `teacher.caption` ask for a shorter one, or leave the loss taught_caption out"
            )
        self.room = max(segment.length for segment in segments)
        self.usable = len(segments)
        """Captions."""
        self.soft = sum(segment.shares is not None for segment in segments)
        """Captions whose tokens have probabilities."""

    def says(self, scene: int) -> bool:
        """Whether there is one."""
        return bool(self._said[scene])

    def segments(self, scene: int, rng: np.random.Generator) -> list[Segment]:
        """That of one of the views."""
        said = self._said[scene]
        return [self._segment(said[int(rng.integers(len(said)))])] if said else []

    def _segment(self, words: Words) -> Segment:
        answer = self._dialogues.answer(words.caption)
        prompt = self._dialogues.prompt(CAPTION_PROMPT)
        pieces = [self._piece(token) for token in answer[:-1]]
        shares = shares_of(words, pieces)
        return Segment(prompt, answer, TAUGHT_CAPTION, CAPTION_WEIGHT, shares)

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = str(self._tokenizer.decode([token]))
        return self._pieces[token]


def shares_of(words: Words, pieces: Sequence[str]) -> tuple[float, ...] | None:
    """A teacher's probabilities of the tokens of its caption, and of its end.

    Args:
        words: of the teacher.
        pieces: the caption's tokens of the student, as text.

    Returns:
        None where the teacher has none, or cuts its captions otherwise. White space does not count:
        tokens of it have a probability of 1, as the end of a caption where it is not known.
    """
    known = list(zip(words.tokens, words.log_probabilities, strict=True))
    end = math.exp(known.pop()[1]) if known and not known[-1][0] else 1.0
    known = [(token.strip(), likely) for token, likely in known if token.strip()]
    if not known or [token for token, _ in known] != [p.strip() for p in pieces if p.strip()]:
        return None
    likely = iter(min(1.0, math.exp(each)) for _, each in known)
    return (*(next(likely) if piece.strip() else 1.0 for piece in pieces), end)


class TaughtAnswers(Known):
    """The probabilities that a teacher gives the choices of typed questions."""

    def __init__(
        self,
        views: Sequence[Sequence[Place]],
        words: Mapping[Place, Words],
        dialogues: Dialogues,
        questions: Sequence[QuestionSpec],
    ) -> None:
        """Word them.

        Args:
            views: of each scene, of which one is drawn for each step.
            words: of each view.
            dialogues: how they are worded.
            questions: that the teacher was asked.

        Raises:
            DistillationError: it has answered none, or the student cannot tell choices apart.
        """
        self._questions = tuple(questions)
        self._worded = [_worded(dialogues, question) for question in questions]
        self._answers = [
            [found for view in each if any((found := words[view].answers).values())]
            for each in views
        ]
        if not any(self._answers):
            raise DistillationError(
                "the teacher has answered none of `teacher.questions` with one of their choices; "
                "word them otherwise, or leave the loss taught_answers out"
            )
        lengths = [
            sum(len(prompt) + len(answer) - 1 for answer in answers)
            for prompt, answers in self._worded
        ]
        self.room = max(*lengths, min(sum(lengths), QUESTIONS_ROOM), 0)

    def says(self, scene: int) -> bool:
        """Whether it has answered something."""
        return bool(self._answers[scene])

    def segments(self, scene: int, rng: np.random.Generator) -> list[Segment]:
        """The choices of all questions, in an order that is drawn: not all may fit."""
        answers = self._answers[scene]
        if not answers:
            return []
        said = answers[int(rng.integers(len(answers)))]
        return [
            Segment(prompt, answer, ANSWER, among=(int(number) + 1, share))
            for number in rng.permutation(len(self._questions))
            for prompt, choices in [self._worded[number]]
            for answer, share in zip(choices, said[self._questions[number].name], strict=False)
        ]


def _worded(dialogues: Dialogues, question: QuestionSpec) -> tuple[list[int], list[list[int]]]:
    """Tokens of a question and of its choices."""
    answers = [dialogues.answer(choice) for choice in question.choices]
    nothing, known = dialogues.answer(""), dict[tuple[int, ...], str]()
    for choice, answer in zip(question.choices, answers, strict=True):
        other = known.setdefault(tuple(answer), choice)
        if len(answer) == 1 or answer == nothing:
            raise DistillationError(
                f"the choice {choice} of the question {question.name} has no token in the "
                "student's tokenizer; word it otherwise, or choose another `language.tokenizer`"
            )
        if other != choice:
            raise DistillationError(
                f"the choices {other} and {choice} of the question {question.name} are the same "
                "tokens for the student; word them otherwise, or choose another "
                "`language.tokenizer`"
            )
    return dialogues.prompt(question.question), answers


class TaughtPatches(Known):
    """A teacher's embeddings of patches, brought to the grid of the student's tower."""

    def __init__(
        self, views: Sequence[Sequence[Place]], taught: Taught, grid: tuple[int, int]
    ) -> None:
        """Read nothing yet.

        Args:
            views: of each scene; the first one counts.
            taught: has patches.
            grid: columns and rows.
        """
        self._views, self._taught, self._grid = views, taught, grid

    def patches(self, scenes: NDArray[np.int64]) -> Tensor:
        """[B, cells, W], of length 1."""
        images, views = zip(*(self._views[scene][0] for scene in scenes), strict=True)
        said = self._taught.batch(images, views).patches
        assert said is not None
        return resampled(torch.from_numpy(said), self._grid)
