# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a thread is doing and how long that may take: recorded here, checked by a watchdog."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

LEAST_S, TIMES = 1.0, 5.0
"""Limit of an engine call: a multiple of its time at warm-up, but at least this many seconds.

What no engine does may take the seconds."""


@dataclass(frozen=True)
class Step:
    """Something that a thread has begun and not ended yet."""

    what: str
    limit_s: float
    began_s: float
    """Tells apart two steps of the same kind."""
    cancel: Callable[[], None] | None = None
    """Ends it early, from another thread, where that can be done."""


class Work:
    """What a thread does, step by step: an engine call is one, the work around it another.

    The thread that does it enters it; any other may look at `step`.
    """

    def __init__(self, name: str) -> None:
        """Prepare work of this name."""
        self.name = name
        self.thread = 0
        """The thread's number in the system, once it has entered."""
        self.step: Step | None = None
        """What is in hand; None: nothing, or nothing that is limited."""

    def __enter__(self) -> Work:
        """Make it the calling thread's."""
        self.thread = threading.get_native_id()
        _THREAD.work = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.step = _THREAD.work = None

    def end_step(self) -> bool:
        """End what is in hand: its result is no longer awaited. False where it cannot be ended."""
        step = self.step
        if step is None or step.cancel is None:
            return False
        step.cancel()
        return True


class _Thread(threading.local):
    work: Work | None = None


_THREAD = _Thread()


@contextmanager
def step(
    what: str, limit_s: float = LEAST_S, cancel: Callable[[], None] | None = None
) -> Iterator[None]:
    """Tell the calling thread's work, if it has one, what begins and how long it may take.

    Args:
        what: in words.
        limit_s: seconds.
        cancel: ends it early, from another thread.
    """
    work = _THREAD.work
    if work is None:
        yield
        return
    around = work.step
    work.step = Step(what, limit_s, time.monotonic(), cancel)
    try:
        yield
    finally:
        # The work around it gets a new limit.
        work.step = around and replace(around, began_s=time.monotonic())


class Pace:
    """How long the calls of one engine may take, by how long they took when it was warmed up.

    Warm-up is what runs outside of any work.
    """

    def __init__(self, what: str) -> None:
        """Know nothing yet of what the calls are called in words."""
        self._what = what
        self._longest_s = 0.0

    @property
    def limit_s(self) -> float:
        """The longest that a call may take, in seconds."""
        return max(LEAST_S, TIMES * self._longest_s)

    @contextmanager
    def call(self, cancel: Callable[[], None] | None = None) -> Iterator[None]:
        """Tell of one call, or learn from it while the engine is warmed up."""
        if _THREAD.work is not None:
            with step(self._what, self.limit_s, cancel):
                yield
            return
        began = time.monotonic()
        try:
            yield
        finally:
            self._longest_s = max(self._longest_s, time.monotonic() - began)
