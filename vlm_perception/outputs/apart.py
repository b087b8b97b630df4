# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps inputs and outputs apart, however their paths are spelt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlm_perception.outputs.mark import OutputError


def keep_apart(shown: Path, inputs: Iterable[Path]) -> Path:
    """Refuse a folder for results that contains an input, or is inside one.

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
                f"{each} is inside {shown}, the folder for the results; choose another --out"
            )
        if _holds(source, folder):
            raise OutputError(
                f"the results would be inside {each} itself, which is the input; choose another "
                "--out"
            )
    return folder


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path} is a loop of symbolic links; choose another --out") from error


def _holds(folder: Path, path: Path) -> bool:
    """Whether a path is the folder or is inside it, according to the file system."""
    return folder.is_dir() and any(
        each.exists() and each.samefile(folder) for each in (path, *path.parents)
    )
