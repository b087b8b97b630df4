# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a fault did, and when that is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_perception.evaluation.chaos.testbed.participant import Seen
from vlm_perception.types import Status

NOTICED_WITHIN_S = 0.5
RECOVERED_WITHIN_S = 2.0
LOAD_S = 60.0
"""How long a killed node may take to load again."""
SILENCE_S = 3.0
KEPT_SHARE = 0.97
"""Share of the images that must become scenes where no node is disturbed."""


@dataclass(frozen=True)
class Finding:
    """What a fault did. Times in seconds; None: it does not apply, or it did not happen."""

    name: str
    seen: str
    """What was seen, in words."""
    noticed_s: float | None
    """From the fault to the first scene, liveliness event or exit that reveals it."""
    recovered_s: float | None
    """From the end of the fault, or the restarted node being active, to the next good scene."""
    lost: int
    """Images in that time that no scene was made of."""
    ok: bool
    diagnosed_s: float | None = None
    """From the fault to the first report on /diagnostics whose level is not OK; all were before."""


def within(seconds: float | None, limit: float) -> bool:
    """Whether something happened, and in time."""
    return seconds is not None and seconds <= limit


def counts(scenes: Sequence[Seen]) -> str:
    """How many scenes there were of each status, in words."""
    found = Counter(scene.status.name for scene in scenes)
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "no scene"


def mostly(scenes: Sequence[Seen], status: Status) -> bool:
    """Whether nearly all scenes have this status."""
    return sum(scene.status is status for scene in scenes) >= 0.95 * max(1, len(scenes))
