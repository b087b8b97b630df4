# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A node's reports on /diagnostics (REP 107): once a second, and changes at once."""

from __future__ import annotations

import platform
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vlm_perception.nodes.process.ticker import Ticker

WINDOW_S = 5.0
PERIOD_S = 1.0
LOOK_S = 0.1
"""Between two checks for something new to report."""
FIGURES = re.compile(r"[\d.]+")


class Meter:
    """Rate and spread of something that happens again and again, over the last seconds."""

    def __init__(self) -> None:
        """Start to count now."""
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()
        self._events: deque[tuple[float, float]] = deque()
        self.total = 0

    def add(self, value: float = 0.0) -> None:
        """Count one event, with the value that goes with it."""
        with self._lock:
            self.total += 1
            self._last = time.monotonic()
            self._events.append((self._last, value))
            self._forget()

    def recent(self) -> int:
        """Return how many events there were within the window."""
        with self._lock:
            self._forget()
            return len(self._events)

    def rate(self) -> float:
        """Return events a second."""
        with self._lock:
            self._forget()
            elapsed = time.monotonic() - self._start
            return len(self._events) / max(min(WINDOW_S, elapsed), 0.1)

    def percentile(self, percent: float) -> float | None:
        """Return this percentile of the values; None when there are none."""
        with self._lock:
            self._forget()
            values = [value for _, value in self._events]
        return float(np.percentile(values, percent)) if values else None

    def silence(self) -> float:
        """Return the seconds since the last event, or since the start."""
        with self._lock:
            return time.monotonic() - self._last

    def restart(self) -> None:
        """Forget the events and count time from now on."""
        with self._lock:
            self._start = self._last = time.monotonic()
            self._events.clear()

    def _forget(self) -> None:
        oldest = time.monotonic() - WINDOW_S
        while self._events and self._events[0][0] < oldest:
            self._events.popleft()


@dataclass(frozen=True)
class Report:
    """The state of a node: a level of DiagnosticStatus, a sentence, and figures."""

    level: bytes
    message: str
    values: Mapping[str, str]


class DiagnosticsPublisher:
    """Publishes the node's report, and those of its parts, at 1 Hz, on a steady clock.

    A new judgement is published at once; one that only counts on is none.
    """

    def __init__(
        self,
        node: Any,
        report: Callable[[], Report],
        parts: Callable[[], Mapping[str, Report]] = dict,
        judge: Callable[[], tuple[bytes, str]] = lambda: (b"", ""),
    ) -> None:
        """Start publishing.

        Args:
            node: whose state it is.
            report: returns it.
            parts: return those of its parts, by the name of each.
            judge: returns level and message of the report, at little cost.
        """
        self._node = node
        self._report = report
        self._parts = parts
        self._judge = judge
        self._published: tuple[bytes, str] | None = None
        self._published_s = float("-inf")
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._ticker = Ticker(node, "diagnostics", LOOK_S, self._look)

    def close(self) -> None:
        """Publish no more on its own, and refer to the node no more."""
        self._ticker.close()

    def _look(self) -> None:
        level, message = self._judge()
        judgement = level, FIGURES.sub("", message)
        # Half a look early: jitter must not make it two looks late.
        due = time.monotonic() - self._published_s >= PERIOD_S - LOOK_S / 2
        if due or judgement != self._published:
            self._published, self._published_s = judgement, time.monotonic()
            self.publish()

    def publish(self) -> None:
        """Publish the reports now."""
        reports = {"pipeline": self._report(), **self._parts()}
        message = DiagnosticArray(
            status=[self._status(part, report) for part, report in reports.items()]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _status(self, part: str, report: Report) -> Any:
        return DiagnosticStatus(
            level=report.level,
            name=f"{self._name}: {part}",
            message=report.message,
            hardware_id=platform.node(),
            values=[KeyValue(key=key, value=value) for key, value in report.values.items()],
        )


def figure(value: float | None, digits: int = 1) -> str:
    """Write a figure; empty when it is not known."""
    return "" if value is None else f"{value:.{digits}f}"


def pace(arrivals: Meter, results: Meter, ages: Meter) -> dict[str, str]:
    """Write how often something comes and goes out, how long that takes, and how old it is then."""
    return {
        "rate_in_hz": f"{arrivals.rate():.2f}",
        "rate_out_hz": f"{results.rate():.2f}",
        "latency_p50_ms": milliseconds(results.percentile(50)),
        "latency_p95_ms": milliseconds(results.percentile(95)),
        "age_p50_ms": milliseconds(ages.percentile(50)),
        "age_p95_ms": milliseconds(ages.percentile(95)),
    }


def milliseconds(value: float | None) -> str:
    """Write seconds as milliseconds; empty when they are not known."""
    return figure(None if value is None else value * 1e3, 2)
