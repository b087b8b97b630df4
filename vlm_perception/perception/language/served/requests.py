# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to a server that any thread can end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

from vlm_perception.engines.steps import step
from vlm_perception.perception.served.completions import Delta, Request
from vlm_perception.perception.served.errors import Fault, ServedError
from vlm_perception.perception.served.link import Link

if TYPE_CHECKING:
    from vlm_perception.perception.served.server_info import ServerInfo


class Closable(Protocol):
    """What somebody waits for."""

    def close(self) -> None:
        """Let nobody wait any longer."""
        ...


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
        self._pending: dict[Closable, Party | None] = {}
        self._stopped = False
        self.on_error: Callable[[ServedError], object] = lambda _: None
        """Called with what becomes of a request that fails."""

    @property
    def are_refused(self) -> bool:
        """Whether the server is left alone for a while, as it has failed."""
        return bool(self._link.issue())

    def check(self, timeout_s: float) -> ServerInfo | None:
        """Ask the server what it is.

        Raises:
            ServedError: it does not serve the model, says nothing in time, or was not to be asked
                any more.
        """
        with closing(self._link.check(timeout_s)) as inquiry, self.pending(inquiry, timeout_s):
            return inquiry.result()

    @contextmanager
    def pending(self, closable: Closable, longest_s: float) -> Iterator[None]:
        """Let what the calling thread waits for within be ended as a request is, by closing it.

        Raises:
            ServedError: requests are refused at the moment.
        """
        self._note(closable, None)
        try:
            with step(self.waiting, longest_s + 1.0, partial(self._end, closable)):
                yield
        finally:
            self._forget(closable)

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
        try:
            yield from self._pieces(request, max(0.0, budget_s), total_s, party)
        except ServedError as error:
            self.on_error(error)
            raise

    def _pieces(
        self, request: Request, budget_s: float, total_s: float | None, party: Party | None
    ) -> Generator[Delta, None, None]:
        with closing(self._link.stream(request, budget_s=budget_s, total_s=total_s)) as answer:
            self._note(answer, party)
            try:
                while True:
                    with step(self.waiting, budget_s + 1.0, partial(self._end, answer)):
                        delta = next(answer, None)
                    if delta is None:
                        break
                    yield delta
                with self._lock:
                    ended = answer not in self._pending
                if ended:
                    raise _ended()
            finally:
                self._forget(answer)

    def end(self, party: Party) -> None:
        """End those of a party, now and later, with an error for who waits for them."""
        with self._lock:
            party.ended = True
            pending = [each for each, of in self._pending.items() if of is party]
        for each in pending:
            self._end(each)

    def stop(self) -> None:
        """End all, with an error for who waits for them, and refuse further ones until `resume`."""
        with self._lock:
            self._stopped = True
            pending = list(self._pending)
        for each in pending:
            self._end(each)

    def resume(self) -> None:
        """Send requests again."""
        self._stopped = False

    def _note(self, pending: Closable, party: Party | None) -> None:
        with self._lock:
            if self._stopped or (party is not None and party.ended):
                raise _ended()
            self._pending[pending] = party

    def _forget(self, pending: Closable) -> None:
        with self._lock:
            self._pending.pop(pending, None)

    def _end(self, pending: Closable) -> None:
        """End one with an error for who waits for it: what has come is not all."""
        self._forget(pending)
        pending.close()


def _ended() -> ServedError:
    return ServedError(
        Fault.CLOSED, "the request was ended before its answer had come; send it again"
    )
