# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a server can do: found out when it is reached, and again once it may be another one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from vlm_perception.perception.language.served.abilities import Abilities, find_abilities
from vlm_perception.perception.language.served.requests import Requests
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.served.errors import HARMLESS, LATE, Fault, ServedError

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
"""Between two looks for a server that was not found."""
SHORTEST_DOUBT_S, LONGEST_DOUBT_S = 30.0, 600.0
"""Between two looks because of what it answers, which may be the model's way; doubled whenever
nothing new was found."""
OF_THIS_NODE = frozenset({Fault.CLOSED, Fault.BUSY})
"""Why a look came to nothing, though the server may be well."""


class _Wait:
    """A thread's wait for its turn."""

    def __init__(self, turn: threading.Condition) -> None:
        self._turn, self.closed = turn, False

    def close(self) -> None:
        with self._turn:
            self.closed = True
            self._turn.notify_all()


class Discovery:
    """Knows what a server can do; for any thread.

    A server that has failed, or that was not asked for a while, is asked again what it is. If that
    is something else, or if its answers contradict what is known, all is found out anew.
    """

    def __init__(
        self,
        requests: Requests,
        settings: ServedSettings,
        clock: Callable[[], float],
        learned: Callable[[Abilities], None],
        known: Abilities | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            requests: to the server.
            settings: how it is asked.
            clock: seconds.
            learned: called with what has been found out.
            known: what it can do, for good; None: that is to be found out.
        """
        self._requests, self._settings, self._clock = requests, settings, clock
        self._learned, self._fixed = learned, known is not None
        self.known = known
        """What it can do, as far as that is known."""
        self.fault = ""
        """Why that could not be found out, the last time."""
        self._turn, self._taken = threading.Condition(), False
        """Of the thread that is finding it out."""
        self._doubted = self._contradicted = known is None
        """Whether to ask the server what it is, and whether to try out what it can do."""
        self._retry_at_s = self._pause_s = 0.0
        self._doubt_at_s, self._doubt_s = 0.0, SHORTEST_DOUBT_S
        requests.on_error = self._hear

    def is_due(self) -> bool:
        """Whether a look makes sense now, where one is needed."""
        return self._clock() >= self._retry_at_s

    def resume(self) -> None:
        """The server was left alone for a while, and may be another one now."""
        self.fault, self._retry_at_s, self._pause_s = "", 0.0, 0.0
        self._doubted = not self._fixed

    def contradict(self) -> None:
        """An answer lacks what the server is known to give."""
        if not self._fixed and self._clock() >= self._doubt_at_s:
            self._doubted = self._contradicted = True

    def find(self, wait_s: float) -> Abilities:
        """What the server can do.

        Args:
            wait_s: the most seconds to wait while another thread finds it out.

        Raises:
            ServedError: it cannot be asked now.
        """
        if self.known is not None and not self._doubted:
            return self.known
        self._take_turn(wait_s)
        try:
            if self.known is not None and not self._doubted:
                return self.known
            return self._look()
        except ServedError as error:
            if error.fault not in OF_THIS_NODE:
                self._wait_after(error)
            raise
        finally:
            with self._turn:
                self._taken = False
                self._turn.notify_all()

    def _wait_after(self, error: ServedError) -> None:
        self.fault = str(error)
        self._pause_s = min(max(SHORTEST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        self._retry_at_s = self._clock() + self._pause_s

    def _take_turn(self, wait_s: float) -> None:
        wait = _Wait(self._turn)
        with self._requests.pending(wait, wait_s), self._turn:
            self._turn.wait_for(lambda: wait.closed or not self._taken, wait_s)
            if wait.closed or self._taken:
                raise ServedError(
                    Fault.CLOSED if wait.closed else Fault.BUSY,
                    f"{self._settings.model} is still being asked what it can do; ask later",
                )
            self._taken = True

    def _look(self) -> Abilities:
        settings, deadline_s, known = self._settings, self._settings.served_deadline, self.known
        info = self._requests.check(deadline_s)
        fingerprint = info.fingerprint if info is not None else ""
        if known is None or self._contradicted or fingerprint != known.fingerprint:
            found = find_abilities(
                lambda request: self._requests.ask(request, deadline_s, total_s=deadline_s),
                size=settings.served_image_size,
                quality=settings.served_jpeg_quality,
                frames=settings.frames,
                clock=self._clock,
            )
            found = replace(found, fingerprint=fingerprint)
            news = known is None or found.kind != known.kind
            self._doubt_s = SHORTEST_DOUBT_S if news else min(2 * self._doubt_s, LONGEST_DOUBT_S)
            self._doubt_at_s = self._clock() + self._doubt_s
            self.known = known = found
            self._learned(found)
        self._doubted = self._contradicted = False
        self.fault, self._pause_s = "", 0.0
        return known

    def _hear(self, error: ServedError) -> None:
        """A request has failed: the server may be gone, and another one in its place."""
        if error.fault is Fault.REQUEST:
            self.contradict()
        elif error.fault not in HARMLESS | LATE or self._requests.are_refused:
            self._doubted = not self._fixed
