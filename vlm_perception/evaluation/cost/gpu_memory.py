# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory of the GPUs a process takes at its peak, as nvidia-smi tells it."""

from __future__ import annotations

import subprocess
import threading
from types import TracebackType

QUERY = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
PERIOD_S = 0.2
LONGEST_S = 10.0
MEGABYTE = 1 << 20


class GpuMemory:
    """Watches all GPUs while something else runs; a context manager.

    What is in use before is not counted. Within a container nvidia-smi knows no processes, so that
    what others take or free meanwhile is counted, too.
    """

    peak_mb: float | None = None
    """Megabytes (1e6 bytes) above those in use before; None: there is no GPU that tells."""

    def __enter__(self) -> GpuMemory:
        """Begin."""
        self._before = used_mb()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._before is not None:
            self.peak_mb = 0.0
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._over.set()
        if self._before is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            used = used_mb()
            if used is not None and self._before is not None and self.peak_mb is not None:
                self.peak_mb = max(self.peak_mb, used - self._before)


def used_mb() -> float | None:
    """Memory in use of all GPUs, in megabytes; None: none tells."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=LONGEST_S)
        return sum(map(float, done.stdout.split())) * MEGABYTE / 1e6
    # Not installed, no driver, a GPU that shares the machine's memory ("[N/A]").
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
