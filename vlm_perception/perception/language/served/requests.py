# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to a server that any thread can end."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from functools import partial

from vlm_perception.engines.steps import step
from vlm_perception.perception.served.completions import Delta, Request
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.link import Answer, Link


class Party:
    """Requests that end together."""

    def __init__(self) -> None:
        """None has been sent yet."""
        self.ended = False


class Requests:
    """Sends requests and knows those that are being answered; for any thread."""

    def __init__(self, link: Link, waiting: str) -> None:
        """Send none yet.

        Args:
            link: brings the answers.
            waiting: in words, what a thread does meanwhile.
        """
        self._link, self.waiting = link, waiting
        self._lock = threading.Lock()
        self._answers: dict[Answer, Party | None] = {}
        self._stopped = False

    def ask(
        self,
        request: Request,
        budget_s: float,
        *,
        total_s: float | None = None,
        party: Party | None = None,
    ) -> Generator[Delta, None, None]:
        """The pieces of an answer.

        Args:
            request: what is asked.
            budget_s: the most seconds until each piece.
            total_s: the most seconds for all of them.
            party: whose end is its end.

        Raises:
            ServedError: it does not come in time, or not at all, or was ended.
        """
        budget_s = max(0.0, budget_s)
        with closing(self._link.stream(request, budget_s=budget_s, total_s=total_s)) as answer:
            with self._lock:
                if self._stopped or (party is not None and party.ended):
                    raise _ended()
                self._answers[answer] = party
            try:
                while True:
                    with step(self.waiting, budget_s + 1.0, partial(self._end, answer)):
                        delta = next(answer, None)
                    if delta is None:
                        break
                    yield delta
                with self._lock:
                    ended = answer not in self._answers
                if ended:
                    raise _ended()
            finally:
                with self._lock:
                    self._answers.pop(answer, None)

    def end(self, party: Party) -> None:
        """End those of a party, now and later, with an error for who waits for them."""
        with self._lock:
            party.ended = True
            answers = [answer for answer, of in self._answers.items() if of is party]
        for answer in answers:
            self._end(answer)

    def stop(self) -> None:
        """End all, with an error for who waits for them, and refuse further ones until `resume`."""
        with self._lock:
            self._stopped = True
            answers = list(self._answers)
        for answer in answers:
            self._end(answer)

    def resume(self) -> None:
        """Send requests again."""
        self._stopped = False

    def _end(self, answer: Answer) -> None:
        """End one with an error for who waits for it: what has come is not all."""
        with self._lock:
            self._answers.pop(answer, None)
        answer.close()


def _ended() -> ServedError:
    return ServedError(
        Fault.CLOSED, "the request was ended before its answer had come; send it again"
    )
