# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a process costs: memory and processor time, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm_perception.common.machine import cpu_count, cpu_model

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IDLE_FIELDS = (3, 4)  # idle and iowait, in proc(5)
_UTIME, _STIME = 11, 12  # counted after the command's closing parenthesis


@dataclass(frozen=True)
class Usage:
    """Processor seconds since its start, and resident memory (shared memory counts too)."""

    cpu_s: float
    rss_mb: float


def usage_of(pid: int) -> Usage:
    """Read what a process has used.

    Raises:
        OSError: The process is gone.
    """
    # The command may hold spaces and parentheses of its own.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return Usage(ticks / _TICKS_PER_S, pages * _PAGE_BYTES / 1e6)


def cpu_percent(before: Usage, after: Usage, seconds: float) -> float:
    """Share of one core between two readings, in percent."""
    return 100 * (after.cpu_s - before.cpu_s) / seconds


@dataclass(frozen=True)
class Machine:
    """The machine and what it was doing before."""

    cpu_model: str
    cpu_count: int
    busy_percent: float
    """Of all cores together."""
    load_average: float
    """Over the last minute."""

    def as_json(self) -> Mapping[str, str | int | float]:
        """The same as JSON keys."""
        return {
            "cpu_model": self.cpu_model,
            "cpu_count": self.cpu_count,
            "busy_before_percent": round(self.busy_percent, 1),
            "load_average_before": round(self.load_average, 2),
        }


def look_at_machine(seconds: float = 1.0) -> Machine:
    """Watch the machine for a while."""
    idle_before, total_before = processor_ticks()
    time.sleep(seconds)
    idle_after, total_after = processor_ticks()
    total = max(1, total_after - total_before)
    busy = 100 * (1 - (idle_after - idle_before) / total)
    return Machine(cpu_model(), cpu_count(), busy, os.getloadavg()[0])


def processor_ticks() -> tuple[int, int]:
    """Idle and all ticks of all cores since the start."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    # guest times are part of user times already
    ticks = [int(field) for field in first.split()[1:9]]
    return sum(ticks[field] for field in _IDLE_FIELDS), sum(ticks)
