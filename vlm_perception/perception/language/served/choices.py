# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Typed questions to a server: by letters, or as one JSON object."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.engines.steps import step
from vlm_perception.perception.language.served import answer_sheet
from vlm_perception.perception.language.served.abilities import ALTERNATIVES, Abilities
from vlm_perception.perception.language.served.discovery import Discovery
from vlm_perception.perception.language.served.letters import answered, lettered, masses, unanswered
from vlm_perception.perception.language.served.requests import Party, Requests
from vlm_perception.perception.language.served.sent_image import message
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.served.completions import Request
from vlm_perception.types import Attribute

LONGEST_SHOWN = 60
"""Characters of an answer that is quoted because it is none."""


@dataclass(frozen=True)
class Sheet:
    """Questions that can be put to the server one by one or all at once."""

    questions: tuple[QuestionSpec, ...]
    together: str
    """The prompt that asks all of them."""

    @property
    def tokens(self) -> int:
        """Their length, roughly: the server has the tokenizer."""
        return len(self.together) // 4


class Choices:
    """Puts typed questions to a server; for any thread."""

    def __init__(
        self,
        requests: Requests,
        discovery: Discovery,
        settings: ServedSettings,
        clock: Callable[[], float],
    ) -> None:
        """Ask nothing yet.

        Args:
            requests: to the server.
            discovery: is told where an answer contradicts what the server is known to give.
            settings: how it is asked.
            clock: seconds.
        """
        self._requests, self._discovery = requests, discovery
        self._settings, self._clock = settings, clock
        self._threads = ThreadPoolExecutor(settings.slots, "served")
        self._lock = threading.Lock()
        self._nonsense: dict[str, str] = {}
        self.least_mass = 1.0
        """The smallest probability that all letters of a question had together."""

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    def concern(self) -> str:
        """Say what is wrong with the answers; empty: nothing."""
        answers = tuple(self._nonsense.values())
        if not answers:
            return ""
        return (
            f"{self._settings.model} answers typed questions with {answers[0]!r} and not "
            "with one of their choices, so that they are unknown; use a model that follows "
            "instructions, or a server that can keep it to a JSON schema"
        )

    def answer(
        self, images: Sequence[str], packed: Sheet, able: Abilities, end_s: float
    ) -> tuple[Attribute, ...]:
        """Answer questions, by letters where the server gives log-probabilities.

        Args:
            images: the frame as it is sent.
            packed: the questions.
            able: what the server can do.
            end_s: when to give up, by the clock.

        Raises:
            ServedError: it cannot answer now.
        """
        if able.letters:
            return self._choose_all(images, packed, end_s)
        return self._fill_in(images, packed, end_s, guided=able.guided)

    def letters(
        self,
        images: Sequence[str],
        question: QuestionSpec,
        turn: int,
        wait_s: float,
        party: Party | None = None,
    ) -> tuple[str, NDArray[np.float64]]:
        """What was answered, and the probability of each choice's letter [choices].

        Args:
            images: the frame as it is sent.
            question: that is asked.
            turn: by how many places the choices are turned before they get their letters.
            wait_s: the most seconds.
            party: whose end is its end.

        Raises:
            ServedError: it cannot answer now.
        """
        turned = tuple(np.roll(question.choices, -turn).tolist())
        request = Request(
            messages=[message(images, lettered(question.model_copy(update={"choices": turned})))],
            max_tokens=1,
            top_logprobs=ALTERNATIVES,
        )
        text, found, told = "", masses({}, len(turned)), False
        answer = self._requests.ask(request, wait_s, total_s=wait_s, party=party)
        with closing(answer) as deltas:
            for delta in deltas:
                text += delta.text
                for token in delta.logprobs[:1]:
                    found, told = masses(token.top, len(turned)), len(token.top) > 1
        if text and not told:
            self._discovery.contradict()
        return text, np.roll(found, turn)

    def _choose_all(
        self, images: Sequence[str], packed: Sheet, end_s: float
    ) -> tuple[Attribute, ...]:
        requests, party = self._requests, Party()

        def ask(question: QuestionSpec) -> Attribute:
            return self._choose(images, question, end_s, party)

        if self._settings.slots == 1:
            return tuple(map(ask, packed.questions))
        with step(
            requests.waiting, self._settings.served_deadline + 1.0, partial(requests.end, party)
        ):
            return tuple(self._threads.map(ask, packed.questions))

    def _choose(
        self, images: Sequence[str], question: QuestionSpec, end_s: float, party: Party
    ) -> Attribute:
        left_s = max(0.0, end_s - self._clock())
        text, found = self.letters(images, question, 0, left_s, party)
        self.least_mass = min(self.least_mass, float(found.sum()))
        attribute = answered(question, found)
        self._note(question.name, "" if attribute.probabilities else text)
        return attribute

    def _fill_in(
        self, images: Sequence[str], packed: Sheet, end_s: float, *, guided: bool
    ) -> tuple[Attribute, ...]:
        questions = packed.questions
        request = Request(
            messages=[message(images, packed.together)],
            max_tokens=answer_sheet.longest(questions),
            schema=answer_sheet.schema(questions) if guided else None,
        )
        left_s = max(0.0, end_s - self._clock())
        with closing(self._requests.ask(request, left_s, total_s=left_s)) as deltas:
            text = "".join(delta.text for delta in deltas)
        attributes = answer_sheet.filled(text, questions)
        if guided and attributes is None:
            self._discovery.contradict()
        self._note("", "" if attributes is not None else text)
        return attributes or tuple(map(unanswered, questions))

    def _note(self, question: str, nonsense: str) -> None:
        """Keep what was answered to a question, where that is no answer."""
        with self._lock:
            kept = {name: said for name, said in self._nonsense.items() if name != question}
            if shown := " ".join(nonsense.split())[:LONGEST_SHOWN]:
                kept[question] = shown
            self._nonsense = kept
