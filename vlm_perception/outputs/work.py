# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A folder for a run's unfinished files; its mark names the owner."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from vlm_perception.outputs.mark import MARK, Mark, OutputError, read_mark, write_mark

REMEDY = "choose another --out"


class Unfinished(Mark):
    """What a run is writing."""

    verb: str
    whole: bool = False
    """Whether nothing is left but to put the files into their places."""


def left_over(work: Path, verb: str) -> Unfinished | None:
    """The mark of what an interrupted run has left in a folder; None when there is nothing.

    Raises:
        OutputError: the folder belongs to the user, or to another verb.
    """
    if not os.path.lexists(work):
        return None
    mark = read_mark(work, Unfinished) if is_plain(work) else None
    if mark is None and not is_bare(work):
        raise OutputError(f"{work} was not made by this program; rename it or choose another --out")
    if mark is not None and mark.verb != verb:
        raise OutputError(f"{work} was left by an interrupted `{mark.verb}`; choose another --out")
    if mark is None:
        shutil.rmtree(work)
    return mark


def begin(work: Path, verb: str) -> None:
    """Make the folder.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        work.mkdir()
        write_mark(work, Unfinished(verb=verb))
    except OSError as error:
        raise cannot(work.parent, error) from error


def remove(work: Path) -> None:
    """Remove the folder with all that it holds; it keeps its mark up to the last."""
    for each in work.iterdir():
        if is_plain(each):
            shutil.rmtree(each)
        elif each.name != MARK:
            each.unlink()
    (work / MARK).unlink(missing_ok=True)
    work.rmdir()


def taken(folder: Path, remedy: str = REMEDY) -> int:
    """Make a folder and take it for this run, until the returned file handle is closed.

    Args:
        folder: the folder.
        remedy: what to do where it cannot be taken, as the end of a sentence.

    Raises:
        OutputError: another run has taken it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise cannot(folder, error, remedy) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            f"another run is writing to {folder}; wait for it to finish or {remedy}"
        ) from error
    except OSError:
        pass  # Some network file systems have no locks.
    return handle


def is_plain(folder: Path) -> bool:
    """Whether it is a folder and no link to one."""
    return folder.is_dir() and not folder.is_symlink()


def is_bare(folder: Path) -> bool:
    """Whether it is a folder without files, as a run leaves it that is killed at its ends."""
    files = (each for each in folder.rglob("*") if not is_plain(each))
    return is_plain(folder) and all(each == folder / f"{MARK}.new" for each in files)


def cannot(folder: Path, error: OSError, remedy: str = REMEDY) -> OutputError:
    """What to raise where a folder cannot be written."""
    return OutputError(f"results cannot be written to {folder} ({error.strerror}); {remedy}")
