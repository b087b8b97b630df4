# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How much more a file may grow: a bag is closed while there is still room for its index."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from vlm_perception.common.errors import RunError

KEPT_FREE_BYTES = 32 * 2**20
"""For the last chunk and the index of a bag, and for what others write at the same moment."""


class DiskFullError(RunError, OSError):
    """There is not enough disk space to continue; the text says what to do."""


def check_room(file: Path) -> None:
    """Refuse to let a file grow when little room is left, or to begin it.

    Raises:
        DiskFullError: less than KEPT_FREE_BYTES are left to the file.
        OSError: its folder is gone.
    """
    left = free_bytes(file)
    if left < KEPT_FREE_BYTES:
        raise DiskFullError(
            f"the disk is full: {max(0, left) // 2**20} MB are free, and "
            f"{KEPT_FREE_BYTES // 2**20} MB are reserved for closing files (free up space or "
            "choose another folder)"
        )


def free_bytes(file: Path) -> int:
    """Bytes by which the file may grow."""
    room = os.statvfs(file.parent)
    free = room.f_frsize * room.f_bavail
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return free
    return min(free, limit - (file.stat().st_size if file.exists() else 0))
