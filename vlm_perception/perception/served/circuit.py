# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A circuit breaker: a server that fails is left alone, and tried once in a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vlm_perception.perception.served.errors import HARMLESS, LASTING, Fault, ServedError

FAILURES = 3
"""In a row, until the circuit opens; a failure that would last opens it at once."""
SHORTEST_S, LONGEST_S = 0.5, 5.0
"""Until the first trial, and between trials once they have failed for long."""
LONGEST_WAIT_S = 60.0
"""The longest that a server is left alone because it asks for it."""


class Circuit:
    """Counts the outcomes of requests; each admitted one reports exactly one. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin closed; `clock` gives monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = 0.0
        self._until: float | None = None
        self._trial = False
        self._cause: ServedError | None = None

    @property
    def issue(self) -> str:
        """The sentence of the failure that keeps the circuit open; empty while it is closed."""
        with self._lock:
            return str(self._cause) if self._until is not None else ""

    @property
    def admits(self) -> bool:
        """Whether `admit` would let a request pass."""
        with self._lock:
            return self._until is None or not (self._trial or self._clock() < self._until)

    def admit(self) -> bool:
        """Let a request pass; returns whether it is a trial.

        Raises:
            ServedError: the circuit is open, and no trial is due.
        """
        with self._lock:
            if self._until is None:
                return False
            if self._trial or self._clock() < self._until:
                raise ServedError(Fault.OPEN, str(self._cause))
            self._trial = True
            return True

    def succeeded(self) -> None:
        """A request was answered: the circuit closes."""
        with self._lock:
            self._failures, self._pause_s, self._until = 0, 0.0, None
            self._trial, self._cause = False, None

    def abandoned(self, *, trial: bool) -> None:
        """A request ended without a word on the server's state, as when it was cancelled."""
        with self._lock:
            self._trial = self._trial and not trial

    def failed(self, error: ServedError, *, trial: bool) -> None:
        """A request failed."""
        if error.fault in HARMLESS:
            self.abandoned(trial=trial)
            return
        with self._lock:
            self._failures += 1
            opens = self._until is None and (self._failures >= FAILURES or error.fault in LASTING)
            if self._until is None or trial:
                self._cause = error
            if opens or trial:
                self._pause_s = min(max(SHORTEST_S, 2 * self._pause_s), LONGEST_S)
                asked = min(error.wait_s or 0.0, LONGEST_WAIT_S)
                self._until = self._clock() + max(self._pause_s, asked)
            self._trial = self._trial and not trial
