# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The shared memory that Fast DDS moves images through: is it large enough, and is it clean."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 512 * 2**20
"""Four processes with a segment of 32 MiB each, those of the observer and of leftovers."""

# The prefix is fastrtps in Fast DDS 2 (Humble, Jazzy) and fastdds in Fast DDS 3 (Kilted). A
# segment's owner holds a lock on the file that ends in _el for as long as it lives.
_LOCK_FILE = re.compile(r"(?P<base>(?:fastdds|fastrtps)_[0-9a-z]{16})_el")
_NEW_S = 2.0
"""A lock file this young may be about to get its lock."""


def shortage(folder: Path = SHARED_MEMORY) -> str:
    """Say in one sentence what to do when shared memory is too small, else return nothing."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return f"{folder} is missing, so images travel slowly over UDP: mount a tmpfs there"
    size = room.f_frsize * room.f_blocks
    if size >= NEEDED_BYTES:
        return ""
    return (
        f"{folder} holds {size // 2**20} MB, too little for raw images between processes: "
        "start the container with --shm-size=1g or --ipc=host"
    )


def remove_leftovers(folder: Path = SHARED_MEMORY) -> int:
    """Delete the segments of killed processes: no process holds their lock file.

    Ports stay, though `fastdds shm clean` deletes them, too. They are small, and the next process
    takes them over; deleted under a process that has them open, they cut it off from that one.

    Returns:
        The number of bytes that were freed.
    """
    return sum(_remove(file) for file in leftovers(folder))


def leftovers(folder: Path = SHARED_MEMORY) -> list[Path]:
    """List the files of segments whose process was killed."""
    found = []
    for lock_file in sorted(folder.glob("fast*_el")):
        match = _LOCK_FILE.fullmatch(lock_file.name)
        if match and _is_old(lock_file) and not _is_locked(lock_file):
            base = match["base"]
            found += [folder / base, folder / f"sem.{base}_mutex", lock_file]
    return found


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _NEW_S
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    try:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _remove(path: Path) -> int:
    """Delete a file that may be gone or another user's, and return the bytes that it held."""
    try:
        held = path.stat().st_blocks * 512
        path.unlink()
    except OSError:
        return 0
    return held
