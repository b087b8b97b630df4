# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Taking turns: a lock that serves threads in the order in which they came."""

from __future__ import annotations

import math
import threading

from vlm_perception.engines.steps import step


class Turns:
    """A lock for `with` that nobody can hold again before those who waited have had it.

    Python's own lock goes to whoever is awake: a thread that lets go of it and takes it again at
    once, as one that decodes token by token does, would keep the others out.
    """

    def __init__(self) -> None:
        """Start free."""
        self._condition = threading.Condition()
        self._tickets = 0
        self._serving = 0

    def __enter__(self) -> None:
        # Whoever holds it is the one that is late.
        with step("a turn", math.inf), self._condition:
            ticket = self._tickets
            self._tickets += 1
            self._condition.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._serving += 1
            self._condition.notify_all()
