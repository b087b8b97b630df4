# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Room on the disk for what is stored once and read in every epoch."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlm_perception.training.distillation.recipe import DistillationError

MARGIN = 1.05
"""For what file systems add."""


def require_room(place: Path, size: int, remedy: str) -> None:
    """Refuse so many bytes where the disk has not as many, before anything is written.

    Raises:
        DistillationError: it has not.
    """
    there = next(each for each in (place, *place.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if size * MARGIN > free:
        raise DistillationError(
            f"{place} would take {size * MARGIN / 1e9:.3f} GB, and the disk has {free / 1e9:.3f} "
            f"GB left; {remedy}"
        )
