# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The machine that engines run on: its processor, and where the user's caches are."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def cpu_model() -> str:
    """Name of the processor, as /proc/cpuinfo has it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return os.uname().machine


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def available_memory(file: Path = Path("/proc/meminfo")) -> int:
    """Bytes that the kernel could give to a new process without swapping."""
    for line in file.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{file} has no MemAvailable line")


def peak_memory() -> int:
    """The most bytes that this process has had in memory.

    `ru_maxrss` would count its parent's before the exec, too.
    """
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line")


def return_memory() -> None:
    """Give the system what this process has freed and glibc keeps, as after large models."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def cache_directory() -> Path:
    """Where caches are kept: `$XDG_CACHE_HOME/vlm_perception`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vlm_perception"
