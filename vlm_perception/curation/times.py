# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What each stage took, apart from it: the stage itself is the same in each run."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vlm_perception.outputs.durable import write_bytes

TIMES = "times.json"


class StageTime(BaseModel):
    """What a stage took."""

    model_config = ConfigDict(frozen=True)

    images: int
    cpu_s: float
    """Of processors."""


_TIMES = TypeAdapter(dict[str, StageTime])


def keep_time(folder: Path, stage: str, images: int, cpu_s: float) -> None:
    """Keep what a stage took, apart from it: the stage itself is the same in each run."""
    times = read_times(folder)
    times[stage] = StageTime(images=images, cpu_s=round(cpu_s, 3))
    write_bytes(folder / TIMES, _TIMES.dump_json(times, indent=1) + b"\n")


def read_times(folder: Path) -> dict[str, StageTime]:
    """What each stage took when it was made; of a damaged file, nothing."""
    try:
        return _TIMES.validate_json((folder / TIMES).read_bytes())
    except (OSError, ValidationError):
        return {}
