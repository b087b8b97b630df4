# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Taking turns: a lock that serves threads in the order in which they came."""

from __future__ import annotations

import math
import threading

from vlm_perception.engines.steps import step


class Turns:
    """A lock for `with` that no thread can take again before those already waiting have had it.

    Python's own lock goes to any thread that is awake: one that releases and takes it again at
    once, as when decoding token by token, would starve the others.
    """

    def __init__(self) -> None:
        """Start free."""
        self._condition = threading.Condition()
        self._tickets = 0
        self._serving = 0

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        with self._condition:
            return max(0, self._tickets - self._serving - 1)

    def __enter__(self) -> None:
        # The thread that holds it is the one that is late.
        with step("a turn", math.inf), self._condition:
            ticket = self._tickets
            self._tickets += 1
            self._condition.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._serving += 1
            self._condition.notify_all()
