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

# Fast DDS 2 (Humble, Jazzy) says fastrtps, Fast DDS 3 (Kilted) fastdds. The owner of a segment or
# a port holds a lock on the file that ends in _el or _sl for as long as it lives.
_LOCK_FILE = re.compile(r"(?P<base>(?:fastdds|fastrtps)_(?:[0-9a-z]{16}|port\d{1,5}))_[es]l")
_PORT = re.compile(r"(?:fastdds|fastrtps)_port\d{1,5}")
_NEW_S = 2.0
"""A port this young may be about to get its lock."""


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
    """Delete the segments and ports of processes that were killed.

    Does what `fastdds shm clean` does, which is not installed everywhere: a lock file that nobody
    holds belongs to nobody. Ports without a lock file go, too: their reader is gone, and they are
    there only because a killed process, which wrote to them, never said goodbye.

    Returns:
        The number of bytes that were freed.
    """
    freed = 0
    for lock_file in sorted(folder.glob("fast*_[es]l")):
        match = _LOCK_FILE.fullmatch(lock_file.name)
        if match and not _is_locked(lock_file):
            base = match["base"]
            for name in (base, f"sem.{base}_mutex", lock_file.name):
                freed += _remove(folder / name)
    for port in sorted(folder.glob("fast*_port*")):
        if _PORT.fullmatch(port.name) and not _has_lock_file(port) and _is_old(port):
            freed += _remove(port) + _remove(folder / f"sem.{port.name}_mutex")
    return freed


def _has_lock_file(port: Path) -> bool:
    return any(port.with_name(port.name + ending).exists() for ending in ("_el", "_sl"))


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
    """Delete a file that may be gone or somebody else's, and return the bytes that it held."""
    try:
        held = path.stat().st_blocks * 512
        path.unlink()
    except OSError:
        return 0
    return held
