# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An answer between the thread that reads it and the event loop that receives it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import Enum

from vlm_perception.perception.served.completions import Delta, Request
from vlm_perception.perception.served.errors import Fault, ServedError


class Phase(Enum):
    """How far a request has come."""

    QUEUED = "waits for its turn"
    CONNECTING = "is being sent"
    SENT = "has been sent"
    REFUSED = "has been answered with an error"
    ANSWERED = "is being answered"
    COMPLETE = "has been answered"


class Outcome(Enum):
    """How a request ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Exchange:
    """One request and the pieces of its answer. Thread-safe."""

    def __init__(
        self,
        request: Request,
        where: str,
        *,
        budget_s: float,
        total_s: float | None,
        trial: bool,
        clock: Callable[[], float],
    ) -> None:
        """Begin to wait.

        Args:
            request: what is asked.
            where: the server's address, for messages.
            budget_s: the longest wait for any piece.
            total_s: the longest time for the whole answer.
            trial: whether the circuit is open, and this request tries it.
            clock: monotonic seconds.

        `on_end` is called once, when the outcome is known; `ahead` tells of a failed request that
        the server may still be at work on.
        """
        self.request, self.trial = request, trial
        self.phase = Phase.QUEUED
        self.task: Future[None] | None = None
        self.sent_s: float | None = None
        self.first_s: float | None = None
        self.failure: ServedError | None = None
        self.ahead: Callable[[], ServedError | None] = lambda: None
        self._last_s = 0.0
        self._count = 0
        self.on_end: Callable[[Exchange, Outcome, BaseException | None], None] = lambda *_: None
        self._where, self._budget_s, self._total_s, self._clock = where, budget_s, total_s, clock
        self._pieces: queue.SimpleQueue[Delta | BaseException | None] = queue.SimpleQueue()
        self._began_s = self._waits_since_s = clock()
        self._lock = threading.Lock()
        self._outcome: Outcome | None = None

    @property
    def is_left_behind(self) -> bool:
        """Whether the server may be at work on it, though nobody reads the answer."""
        return self.phase in (Phase.SENT, Phase.ANSWERED)

    def until_next_token_s(self, usual_s: float) -> float:
        """How long until the server has its next token, by those before.

        Args:
            usual_s: from a request to its first token; 0 if that is unknown.
        """
        now = self._clock()
        if self.first_s is not None and self._count > 1:
            return 2 * (self._last_s - self.first_s) / (self._count - 1)
        waited = now - (self.sent_s or now)
        return usual_s - waited if usual_s else waited

    def left_s(self) -> float:
        """How long the reader still waits for the next piece."""
        end = self._waits_since_s + self._budget_s
        if self._total_s is not None:
            end = min(end, self._began_s + self._total_s)
        return max(0.0, end - self._clock())

    def read(self) -> Delta | None:
        """Wait for the next piece; None at the end.

        Raises:
            ServedError: the request failed, or nothing came in time.
        """
        piece: Delta | BaseException | None
        try:
            piece = self._pieces.get(timeout=self.left_s())
        except queue.Empty:
            piece = self._late()
            self.end(Outcome.FAILED, piece)
        self._waits_since_s = self._clock()
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def advance(self, phase: Phase) -> None:
        """Note how far the request has come."""
        self.phase = phase
        if phase is Phase.SENT:
            self.sent_s = self._clock()

    def put(self, delta: Delta) -> None:
        """Add a piece."""
        self._last_s = self._clock()
        self._count += 1
        if self.first_s is None:
            self.first_s = self._last_s
        self._pieces.put(delta)
        if delta.finish:
            self.end(Outcome.DONE, None)

    def end(self, outcome: Outcome, error: BaseException | None) -> None:
        """No more pieces come; only the first call counts."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
            self.failure = error if isinstance(error, ServedError) else None
        self.on_end(self, outcome, error)
        self._pieces.put(error)
        if outcome is not Outcome.DONE and self.task is not None:
            self.task.cancel()

    def _late(self) -> ServedError:
        where, waited = self._where, f"{self._clock() - self._began_s:.1f} s"
        ahead = self.ahead()
        if self.phase is Phase.QUEUED and ahead is not None:
            return ServedError(ahead.fault, str(ahead))
        if self.phase is Phase.QUEUED:
            return ServedError(
                Fault.BUSY,
                f"no turn at {where} within {waited}: other requests of this node were not "
                "finished; raise slots if the server takes several at a time, or allow more time",
            )
        if self.phase is Phase.CONNECTING:
            return ServedError(
                Fault.UNREACHABLE,
                f"{where} took no request within {waited}; check the network, or restart the "
                "server if it hangs",
            )
        if self.phase is Phase.SENT:
            return ServedError(
                Fault.SILENT,
                f"{where} took the request and sent nothing within {waited}; it hangs or is "
                "overloaded: see its log, or restart it",
            )
        return ServedError(
            Fault.SLOW,
            f"{where} was too slow: its answer was not whole after {waited}; ask for fewer tokens "
            "and smaller images, use a faster server, or allow more time",
        )


class Stream(Iterator[Delta]):
    """The pieces of an answer. Closing it, from any thread, cancels the request.

    Whoever waits for a piece at that moment gets the end. A stream that is dropped is closed.
    """

    def __init__(self, exchange: Exchange) -> None:
        """Read from an exchange that has been started."""
        self._exchange = exchange
        self._over = False

    def __next__(self) -> Delta:
        """The next piece.

        Raises:
            ServedError: the request failed, or nothing came in time.
        """
        if self._over:
            raise StopIteration
        try:
            piece = self._exchange.read()
        except BaseException:
            self._over = True
            raise
        self._over = piece is None or bool(piece.finish)
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Give up what has not come yet: the request ends, and its connection with it."""
        self._exchange.end(Outcome.CANCELLED, None)
        self._over = True

    def __del__(self) -> None:
        """Nobody can read it any more."""
        self._exchange.end(Outcome.CANCELLED, None)
