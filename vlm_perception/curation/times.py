# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What each stage took, apart from it: the stage itself is the same in each run."""

from __future__ import annotations

import json
from pathlib import Path

from vlm_perception.curation.durable import write_bytes

TIMES = "times.json"


def keep_time(folder: Path, stage: str, images: int, cpu_s: float) -> None:
    """Keep what a stage took, apart from it: the stage itself is the same in each run."""
    times = read_times(folder)
    times[stage] = {"images": images, "cpu_s": round(cpu_s, 3)}
    write_bytes(folder / TIMES, json.dumps(times, indent=1).encode() + b"\n")


def read_times(folder: Path) -> dict[str, dict[str, float]]:
    """Images and processor time of each stage when it was made."""
    try:
        return dict(json.loads((folder / TIMES).read_bytes()) or {})
    except (OSError, ValueError):
        return {}
