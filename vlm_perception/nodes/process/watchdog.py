# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Notices when the work of a node's threads hangs, reports it, and ends what hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vlm_perception.engines.steps import Step, Work
from vlm_perception.nodes.process.runner import end_with_stacks

LOOK_S = 0.1
REPEAT_S = 1.0
"""Interval between reports of a hang, while it lasts."""
GRACE_S = 2.0
"""So long after its limit, or once more its limit if that is longer, a step may take to end."""


@dataclass
class _Seen:
    """A step, and how long it has been in hand as far as that counts."""

    step: Step
    waited_s: float
    """What the thread had waited for a core, all in all."""
    seconds: float = 0.0
    tellings: int = 0


class Watchdog:
    """Looks at the work of a node's threads from a thread of its own.

    Time in which this thread did not run either, as while the process was stopped, does not
    count, nor does time in which the working thread waited for a core.
    """

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        """Start to look.

        Args:
            tell: called with the sentence of a hang and whether it is new, again each second while
                it lasts, and with an empty one when it is over.
        """
        self.hang = ""
        """What hangs now, and what happens next; empty: nothing."""
        self._tell = tell
        self._works: set[Work] = set()
        self._seen: dict[Work, _Seen] = {}
        self._telling = threading.Thread()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def watch(self, name: str) -> Iterator[Work]:
        """Look at what the calling thread does within, step by step; gives that work."""
        with Work(name) as work:
            self._works.add(work)
            try:
                yield work
            finally:
                self._works.discard(work)

    def end_steps(self) -> None:
        """End what is in hand, where that can be done: its result is no longer awaited."""
        for work in tuple(self._works):
            work.end_step()

    def close(self) -> None:
        """Look no more, and refer to the node no more: its end waits for that."""
        self._closed.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(LOOK_S):
            now = time.monotonic()
            self._look(min(now - last, 2 * LOOK_S))
            last = now

    def _look(self, elapsed: float) -> None:
        before, self._seen = self._seen, {}
        hang = ""
        for work in tuple(self._works):
            if (step := work.step) is None:
                continue
            seen, waited = before.get(work), _waited_s(work.thread)
            if seen is None or seen.step is not step:
                self._seen[work] = _Seen(step, waited)
                continue
            self._seen[work] = seen
            seen.seconds += max(0.0, elapsed - (waited - seen.waited_s))
            seen.waited_s = waited
            if seen.seconds > step.limit_s:
                hang = self._act(work, seen)
        if self.hang and not hang:
            self.hang = ""
            self._say("", False)

    def _act(self, work: Work, seen: _Seen) -> str:
        """Report what hangs, end it, and end the process if that does not help."""
        step, late = seen.step, seen.seconds - seen.step.limit_s
        sentence = _sentence(work.name, step)
        if late >= seen.tellings * REPEAT_S:
            self.hang = sentence
            if seen.tellings == 0 and step.cancel is not None:
                step.cancel()
            self._say(sentence, seen.tellings == 0)
            seen.tellings += 1
        if late > _grace_s(step) and work.step is step:
            end_with_stacks(sentence)
        return sentence

    def _say(self, sentence: str, new: bool) -> None:
        # The report may wait for a lock that the hanging thread holds.
        if not self._telling.is_alive():
            self._telling = threading.Thread(
                target=self._tell, args=(sentence, new), name="tell of a hang", daemon=True
            )
            self._telling.start()


def _grace_s(step: Step) -> float:
    return max(GRACE_S, step.limit_s)


def _sentence(name: str, step: Step) -> str:
    return (
        f"{name} hangs: {step.what} takes more than {step.limit_s:.3g} s; it is aborted, and if it "
        f"does not return within {_grace_s(step):.3g} s, the process exits with code 1 and logs "
        "where it hung. Check what else uses this machine's cores, memory or GPU"
    )


def _waited_s(thread: int) -> float:
    """Seconds that a thread has waited for a core; 0 if the kernel does not report it."""
    with suppress(OSError, ValueError, IndexError):
        path = Path(f"/proc/self/task/{thread}/schedstat")
        return int(path.read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0
