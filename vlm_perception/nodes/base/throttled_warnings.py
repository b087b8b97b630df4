# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Warnings about input: each kind counted, and logged at most once in a while."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

EVERY_S = 5.0
LOGGED_AFTER_S = 2.0
"""What passes sooner, as while nodes start, appears in the diagnostics only."""


class ThrottledWarnings:
    """Counts what was wrong with the input and logs it without flooding the log.

    rclpy's own throttle follows a clock that may stand still or jump back; this one is steady.
    """

    def __init__(self, logger: Any) -> None:
        """Log to this logger."""
        self._logger = logger
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged_s: dict[str, float] = {}
        self._last: tuple[float, str] = (float("-inf"), "")
        self._since: dict[str, float] = {}
        self.troubles = 0
        """How often a lasting problem began."""

    def add(self, kind: str, sentence: str, *, severe: bool = False) -> None:
        """Count a warning of this kind; the sentence names the topic, the cause and a remedy."""
        with self._lock:
            self._counts[kind] += 1
        self.note(kind, sentence, severe=severe)

    def note(self, kind: str, sentence: str, *, severe: bool = False) -> None:
        """Report an event, for a while in the diagnostics as well, without counting it."""
        with self._lock:
            self._last = (time.monotonic(), sentence)
        self.say(kind, sentence, severe=severe)

    def say(self, kind: str, sentence: str, *, severe: bool = False) -> None:
        """Log a sentence of this kind, without counting it, unless one was logged just before."""
        now = time.monotonic()
        with self._lock:
            silent = now - self._logged_s.get(kind, float("-inf")) < EVERY_S
            if not silent:
                self._logged_s[kind] = now
        if silent:
            return
        if severe:
            self._logger.error(sentence)
        else:
            self._logger.warning(sentence)

    def lasting(self, kind: str, sentence: str) -> str:
        """Log a lasting problem, count it when it begins, and return it.

        To be called repeatedly; an empty sentence means that all is well.
        """
        now = time.monotonic()
        with self._lock:
            if not sentence:
                self._since.pop(kind, None)
                return ""
            self.troubles += kind not in self._since
            since = self._since.setdefault(kind, now)
        if now - since >= LOGGED_AFTER_S:
            self.say(kind, sentence)
        return sentence

    def counts(self) -> dict[str, int]:
        """Return how many there were of each kind."""
        with self._lock:
            return dict(self._counts)

    def recent(self, within_s: float) -> str:
        """Return the last sentence if it is no older than this, else an empty string."""
        with self._lock:
            when, sentence = self._last
        return sentence if time.monotonic() - when <= within_s else ""
