# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about now: answered beside the reasoner, from threads of their own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.embedding_checks import require_readable
from vlm_perception.perception.language.interface import Language
from vlm_perception.perception.language.newest_seen import NewestSeen
from vlm_perception.perception.language.partial_text import UNFINISHED, PartialText
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling
from vlm_perception.perception.tokenizer import require_text
from vlm_perception.types import Embedding

LONGEST_TEXT = 1000
"""Characters of a question, and of all its choices together."""
MOST_CHOICES = 20
WAITING = 4
"""Questions that may wait for the one that is being answered; a further one is refused."""


class AskError(VlmPerceptionError):
    """A question cannot be answered; the message says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """What was answered, and about which frame."""

    text: str
    confidence: float | None
    """Probability of the choice, or geometric mean of the probabilities of the text's tokens; None
    where the model does not say how probable they are."""
    probabilities: tuple[float, ...]
    """Of each choice; empty for a free answer, and where the model does not say."""
    stamp_ns: int
    vocabulary_version: int


class _Deadline:
    """The end of the time that an answer may take."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        if not 0.0 < seconds <= threading.TIMEOUT_MAX:
            raise AskError(f"the timeout is {seconds:g} s; give a finite value above 0")
        self.seconds, self._clock = seconds, clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left of it, 0 at the least."""
        return max(0.0, self._end - self._clock())

    def check(self) -> None:
        """Raise AskError once the time is over."""
        if self._clock() > self._end:
            raise self.missed()

    def missed(self) -> AskError:
        """What to raise when the time is over."""
        return AskError(
            f"no answer within {self.seconds:g} s; allow more time, or ask for a shorter one"
        )


class Description:
    """A text about one frame; iterating writes it, token by token."""

    def __init__(
        self,
        language: Language[Any, Any],
        seen: Any,
        prompt: str,
        *,
        max_tokens: int,
        untagged: Sequence[str],
        sampling: Sampling = GREEDY,
    ) -> None:
        """Prepare it.

        Args:
            language: writes the text.
            seen: the frame, as it was read.
            prompt: what to describe.
            max_tokens: the most tokens to write.
            untagged: labels that an unfinished text must not name.
            sampling: how tokens are chosen.
        """
        self._written = language.write(seen, prompt, max_tokens=max_tokens, sampling=sampling)
        self._partial = PartialText(untagged)
        self.tokens = 0
        """Tokens written so far."""
        self.written = ""
        """All that they spell, what is held back included."""
        self.finished = False
        """Whether the model has ended the text itself."""

    @property
    def text(self) -> str:
        """What has been shown; it ends in dots until the model has ended it."""
        shown = self._partial.shown
        return shown if self.finished else (shown + UNFINISHED).lstrip()

    def __iter__(self) -> Iterator[str]:
        """After each token yield what can be shown beyond the pieces before; often nothing.

        Raises:
            PromptError: the prompt leaves no room for an answer.
        """
        for written in self._written:
            self.tokens += 1
            self.written, self.finished = written.text, written.stops
            show = self._partial.finish if written.stops else self._partial.grow
            yield show(written.text)


class Asker:
    """Answers questions about a frame; its methods may be called from any thread.

    It shares the engines with the reasoner, run by run: neither waits for more than one run of the
    other's.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        language: Language[Any, Any],
        newest_seen: NewestSeen[Any],
        questions: Sequence[QuestionSpec] = (),
        *,
        sampling: Sampling = GREEDY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Answer with this model.

        Args:
            bundle: the model.
            language: its language part.
            newest_seen: the frame that was read last.
            questions: known questions; one that is asked again is answered at its temperature.
            sampling: how the tokens of free answers and descriptions are chosen.
            clock: seconds, for the limits of time.
        """
        self._bundle, self._language, self._newest_seen = bundle, language, newest_seen
        self._sampling = sampling
        self._known = {(spec.question, spec.choices): spec for spec in questions}
        self._labels = bundle.manifest.vocabulary.names
        self._clock = clock
        self._places = threading.BoundedSemaphore(1 + WAITING)
        self._turn = threading.Lock()

    def ask(
        self,
        newest: Callable[[], Embedding],
        question: str,
        choices: Sequence[str] = (),
        *,
        timeout: float,
        max_tokens: int,
    ) -> Answer:
        """Answer a question about the frame that is the newest when its turn comes.

        Args:
            newest: gives that frame; it may raise VlmPerceptionError.
            question: taken literally, whatever it holds.
            choices: the allowed answers; without them the answer is free.
            timeout: the longest time to take in seconds.
            max_tokens: the most tokens of a free answer.

        Raises:
            AskError: the question is none, too many wait, or the time is over.
            PromptError: the question or a choice cannot be put to the model.
            VlmPerceptionError: `newest` has no frame, or one that cannot be read.
        """
        deadline = _Deadline(timeout, self._clock)
        asked = self._question(question, choices)
        with self._line(deadline):
            embedding = newest()
            seen = self._seen(embedding)
            deadline.check()
            if isinstance(asked, QuestionSpec):
                text, confidence, probabilities = self._choose(seen, asked, deadline)
            else:
                text, confidence = self._write(seen, asked, max_tokens, deadline)
                probabilities = ()
            deadline.check()
        return Answer(
            text, confidence, probabilities, embedding.stamp_ns, embedding.vocabulary_version
        )

    def describe(self, embedding: Embedding, instruction: str, *, max_tokens: int) -> Description:
        """Begin a description of a frame.

        Args:
            embedding: the frame.
            instruction: what to describe; empty: the bundle's own prompt.
            max_tokens: the most tokens to write.

        Raises:
            AskError: the instruction is too long.
            VlmPerceptionError: the frame cannot be read.
        """
        instruction = instruction.strip()
        if instruction:
            _check_length(instruction, "instruction")
        tagged = {tag.label for tag in embedding.tags}
        return Description(
            self._language,
            self._seen(embedding),
            instruction or self._language.caption_prompt,
            max_tokens=max_tokens,
            untagged=[label for label in self._labels if label not in tagged],
            sampling=self._sampling,
        )

    def _seen(self, embedding: Embedding) -> Any:
        require_readable(embedding, self._bundle)
        return self._newest_seen.of(embedding)

    def _question(self, question: str, choices: Sequence[str]) -> QuestionSpec | str:
        """Check what is asked; a typed question comes back with its choices."""
        question = question.strip()
        if not question:
            raise AskError("the question is empty; ask one")
        _check_length(question, "question")
        _check_number(choices)
        for text in (question, *choices):
            require_text(text)
        if not choices:
            return question
        _check_choices(choices)
        known = self._known.get((question, tuple(choices)))
        return known or QuestionSpec(name="asked", question=question, choices=tuple(choices))

    def _choose(
        self, seen: Any, question: QuestionSpec, deadline: _Deadline
    ) -> tuple[str, float | None, tuple[float, ...]]:
        packed = self._language.pack([question])
        attribute = self._language.answer(seen, packed, wait_s=deadline.left_s)[0]
        if attribute.value not in question.choices:
            raise AskError(
                "the language model gave none of the choices as its answer; word the question "
                "differently, or ask it without choices"
            )
        return attribute.value, attribute.probability, attribute.probabilities

    def _write(
        self, seen: Any, question: str, max_tokens: int, deadline: _Deadline
    ) -> tuple[str, float | None]:
        logarithms: list[float | None] = []
        text, end = "", UNFINISHED
        for written in self._language.write(
            seen,
            question,
            max_tokens=max_tokens,
            wait_s=deadline.left_s,
            sampling=self._sampling,
        ):
            text = written.text
            logarithms.append(written.log_probability)
            if written.stops:
                end = ""
                break
            deadline.check()
        return (text + end).strip(), _geometric_mean(logarithms)

    @contextmanager
    def _line(self, deadline: _Deadline) -> Iterator[None]:
        """Let one question in at a time and a few wait."""
        if not self._places.acquire(blocking=False):
            raise AskError(f"{WAITING} questions are already waiting; ask again in a moment")
        try:
            if not self._turn.acquire(timeout=deadline.seconds):
                raise deadline.missed()
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self._places.release()


def _check_length(text: str, what: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise AskError(
            f"the {what} has {len(text)} characters but at most {LONGEST_TEXT} are accepted; use a "
            "shorter one"
        )


def _check_number(choices: Sequence[str]) -> None:
    if len(choices) == 1:
        raise AskError("one choice is not a question; give two or more, or none for a free answer")
    if len(choices) > MOST_CHOICES:
        raise AskError(
            f"there are {len(choices)} choices but at most {MOST_CHOICES} are accepted; give fewer"
        )


def _check_choices(choices: Sequence[str]) -> None:
    if not all(choice.strip() for choice in choices):
        raise AskError("a choice is empty; give each one a text")
    _check_length("".join(choices), "list of choices")
    twice = next((choice for choice in choices if choices.count(choice) > 1), None)
    if twice is not None:
        raise AskError(f"the choice {twice!r} is listed twice; give it once")


def _geometric_mean(logarithms: Sequence[float | None]) -> float | None:
    """Of the probabilities that are known; None where none is."""
    known = [each for each in logarithms if each is not None]
    return math.exp(fmean(known)) if known else None
