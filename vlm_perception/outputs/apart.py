# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is read and what is written lie apart, however their paths are spelt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlm_perception.outputs.mark import OutputError


def keep_apart(shown: Path, inputs: Iterable[Path]) -> Path:
    """Refuse a folder for results that holds an input, or lies in one.

    Args:
        shown: the folder, as it was given.
        inputs: files and folders that are read.

    Returns:
        The folder without symbolic links.

    Raises:
        OutputError: it does, or a path leads in a circle.
    """
    folder = _resolved(shown)
    for each in inputs:
        if not each.exists():
            continue
        source = _resolved(each)
        if _holds(folder, source):
            raise OutputError(
                f"{each} lies in {shown}, the folder for the results; choose another --out"
            )
        if _holds(source, folder):
            raise OutputError(
                f"the results would lie in {each} itself, which is read; choose another --out"
            )
    return folder


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{path} leads in a circle of symbolic links; choose another --out"
        ) from error


def _holds(folder: Path, path: Path) -> bool:
    """Whether a path is the folder or lies in it, as the file system sees it."""
    return folder.is_dir() and any(
        each.exists() and each.samefile(folder) for each in (path, *path.parents)
    )
