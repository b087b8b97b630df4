# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder as one result: made beside its place, and put there in one step."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_perception.outputs import work

AT_FDCWD, RENAME_EXCHANGE = -100, 2
OLD = "old"

_log = logging.getLogger(__name__)


@contextmanager
def made_beside(place: Path, verb: str) -> Iterator[Path]:
    """A folder to make a result in, on the file system of its place; it goes in the end.

    What an interrupted run has left there is removed first.

    Raises:
        OutputError: another run is making the same, or the folder cannot be written.
    """
    scratch = place.with_name(f".{place.name}.unfinished")
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(scratch):
        _clear(scratch, place, verb)
    work.begin(scratch, verb)
    handle = work.taken(scratch)
    try:
        yield scratch
    finally:
        work.remove(scratch)
        os.close(handle)


def swap(made: Path, place: Path) -> None:
    """Put a folder into its place; readers see either the old or the new one, complete.

    Args:
        made: the new folder, within that of `made_beside`.
        place: where it belongs; what stood there is then in that of `made_beside`.

    Raises:
        OSError: it cannot be moved.
    """
    if not place.exists():
        made.rename(place)
    elif not exchanged(made, place):
        # Where the file system cannot exchange, there is a moment without either.
        place.rename(made.parent / OLD)
        made.rename(place)


def _clear(scratch: Path, place: Path, verb: str) -> None:
    handle = work.taken(scratch)
    try:
        if work.left_over(scratch, verb) is None:
            return
        if (scratch / OLD).is_dir() and not place.exists():
            (scratch / OLD).rename(place)
        work.remove(scratch)
        _log.warning("removed %s, left by an interrupted run", scratch)
    finally:
        os.close(handle)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; false if the file system or the C library cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0)
