# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Notices when one loss falls while another rises: what is learned of one is lost of the other."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

WINDOW = 5
"""Lines of the log whose mean is compared with that of as many before them."""
CHANGE = 0.05
"""Share by which both have changed."""

_log = logging.getLogger(__name__)


class Drift:
    """Compares the last lines of a log with those before."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lines: deque[Mapping[str, float]] = deque(maxlen=2 * WINDOW)

    def take(self, means: Mapping[str, float]) -> dict[str, list[str]]:
        """Take the next line.

        Returns:
            Names of the losses that `rises` and that `falls`; empty unless there are both.
        """
        self._lines.append(means)
        if len(self._lines) < 2 * WINDOW:
            return {}
        lines = list(self._lines)
        changes = {}
        for name in means:
            before, after = (
                sum(line[name] for line in part) / WINDOW
                for part in (lines[:WINDOW], lines[WINDOW:])
            )
            changes[name] = (after - before) / max(abs(before), 1e-12)
        rises = [name for name, change in changes.items() if change > CHANGE]
        falls = [name for name, change in changes.items() if change < -CHANGE]
        if not rises or not falls:
            return {}
        self._lines.clear()
        _log.warning(
            "%s rises while %s falls: give the first a larger weight, or lower the rate",
            ", ".join(rises), ", ".join(falls),
        )  # fmt: skip
        return {"rises": rises, "falls": falls}
