# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Count what arrives: rate and percentiles of the latency."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RATE_WINDOW_S = 2.0


@dataclass(frozen=True)
class Arrival:
    """One message: when it came, when its image was taken, both in nanoseconds of the host."""

    received_ns: int
    stamp_ns: int
    size: int = 0
    """Of the serialized message, in bytes."""

    @property
    def latency_ms(self) -> float:
        """From capture to arrival, in milliseconds."""
        return (self.received_ns - self.stamp_ns) / 1e6


class Meter:
    """Arrivals on one topic, of which the newest are kept."""

    def __init__(self, keep: int = 100_000) -> None:
        """Start empty."""
        self.count = 0
        self._arrivals: deque[Arrival] = deque(maxlen=keep)

    def add(self, arrival: Arrival) -> None:
        """Count a message."""
        self.count += 1
        self._arrivals.append(arrival)

    def between(self, start_ns: int, end_ns: int) -> list[Arrival]:
        """Those that came after the start and not after the end."""
        kept = tuple(self._arrivals)
        return [arrival for arrival in kept if start_ns < arrival.received_ns <= end_ns]

    def recent(self, now_ns: int, seconds: float = RATE_WINDOW_S) -> list[Arrival]:
        """Those of the last seconds."""
        return self.between(now_ns - round(seconds * 1e9), now_ns)

    def rate_hz(self, now_ns: int) -> float:
        """Messages a second over the last two seconds."""
        return len(self.recent(now_ns)) / RATE_WINDOW_S


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99 of the values, or nothing when there are none."""
    if not values:
        return None
    p50, p95, p99 = np.percentile(np.asarray(values, dtype=np.float64), (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
