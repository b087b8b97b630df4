# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Turn the signals that end a program into a flag that its loops look at."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 128 + signal.SIGINT
"""Exit code of work that Ctrl-C cut short, as shells count."""


class Interrupt:
    """Set by the first SIGINT, SIGTERM or SIGHUP; a context manager of the main thread."""

    def __init__(self) -> None:
        """Not interrupted so far."""
        self.signal: int | None = None
        self.at_s: float | None = None
        self._event = threading.Event()

    def __enter__(self) -> Interrupt:
        """Take the signals over."""
        self._kept = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._kept.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a signal comes."""
        self._event.wait(seconds)

    def exit_code(self, after_ctrl_c: int = 0) -> int:
        """As shells count, but for Ctrl-C: so a person ends what has no end of its own."""
        return after_ctrl_c if self.signal in (None, signal.SIGINT) else 128 + int(self.signal or 0)

    def seconds_since(self) -> float:
        """Seconds since the signal, 0 when there was none."""
        return 0.0 if self.at_s is None else time.monotonic() - self.at_s

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.at_s = number, time.monotonic()
        self._event.set()
