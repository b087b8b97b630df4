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

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.embedding_checks import require_readable
from vlm_perception.perception.language.kv_cache import Prefix
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.partial_text import UNFINISHED, PartialText
from vlm_perception.perception.language.prefix_cache import NewestPrefix
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
    confidence: float
    """Probability of the choice, or geometric mean of the probabilities of the text's tokens."""
    probabilities: tuple[float, ...]
    """Of each choice; empty for a free answer."""
    stamp_ns: int
    vocabulary_version: int


class _Deadline:
    """The end of the time that an answer may take."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        if not 0.0 < seconds <= threading.TIMEOUT_MAX:
            raise AskError(f"the timeout is {seconds:g} s; give a finite value above 0")
        self.seconds, self._clock = seconds, clock
        self._end = clock() + seconds

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
        language: LanguageModel,
        prefix: Prefix,
        prompt: str,
        *,
        max_tokens: int,
        untagged: Sequence[str],
        sampling: Sampling = GREEDY,
    ) -> None:
        """Prepare it.

        Args:
            language: writes the text.
            prefix: the frame.
            prompt: what to describe.
            max_tokens: the most tokens to write.
            untagged: labels that an unfinished text must not name.
            sampling: how tokens are chosen.
        """
        self._tokens = language.stream(prefix, prompt, max_tokens=max_tokens, sampling=sampling)
        self._partial = PartialText(language.decode, untagged)
        self.tokens = 0
        """Tokens written so far."""
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
        for token in self._tokens:
            self.tokens += 1
            self.finished = token.stops
            yield self._partial.finish() if token.stops else self._partial.add(token.index)


class Asker:
    """Answers questions about a frame; its methods may be called from any thread.

    It shares the engines with the reasoner, run by run: neither waits for more than one run of the
    other's.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        language: LanguageModel,
        prefixes: NewestPrefix,
        questions: Sequence[QuestionSpec] = (),
        *,
        sampling: Sampling = GREEDY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Answer with this model.

        Args:
            bundle: the model.
            language: its language part.
            prefixes: the frame that was prefilled last.
            questions: known questions; one that is asked again is answered at its temperature.
            sampling: how the tokens of free answers and descriptions are chosen.
            clock: seconds, for the limits of time.
        """
        self._bundle, self._language, self._prefixes = bundle, language, prefixes
        self._sampling = sampling
        self._known = {(spec.question, spec.choices): spec for spec in questions}
        self._labels = tuple(spec.label for spec in bundle.manifest.vocabulary.labels)
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
            prefix = self._prefix(embedding)
            deadline.check()
            if isinstance(asked, QuestionSpec):
                text, confidence, probabilities = self._choose(prefix, asked)
            else:
                text, confidence = self._write(prefix, asked, max_tokens, deadline)
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
            self._prefix(embedding),
            instruction or self._language.spec.caption_prompt,
            max_tokens=max_tokens,
            untagged=[label for label in self._labels if label not in tagged],
            sampling=self._sampling,
        )

    def _prefix(self, embedding: Embedding) -> Prefix:
        require_readable(embedding, self._bundle)
        return self._prefixes.of(embedding)

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
        self, prefix: Prefix, question: QuestionSpec
    ) -> tuple[str, float, tuple[float, ...]]:
        attribute = self._language.answer(prefix, self._language.pack([question]))[0]
        return attribute.value, max(attribute.probabilities), attribute.probabilities

    def _write(
        self, prefix: Prefix, question: str, max_tokens: int, deadline: _Deadline
    ) -> tuple[str, float]:
        ids: list[int] = []
        logarithms: list[float] = []
        end = UNFINISHED
        tokens = self._language.stream(
            prefix, question, max_tokens=max_tokens, sampling=self._sampling
        )
        for token in tokens:
            logarithms.append(token.log_probability)
            if token.stops:
                end = ""
                break
            ids.append(token.index)
            deadline.check()
        return (self._language.decode(ids) + end).strip(), math.exp(fmean(logarithms))

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
