# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A single result file: written aside, moved into place when complete, never over other files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from vlm_perception.outputs.mark import Mark, OutputError, read_mark, stamp, write_mark

FIGURES = "--json"
"""Stands for the verbs that write figures."""


def maker(file: Path) -> str:
    """The verb that has left a file as it is now; empty when none of this program has."""
    mark = read_mark(file.parent, Mark) or Mark()
    verb = mark.files.get(file.name, ("", 0, 0))[0]
    return verb if file.is_file() and mark.files.get(file.name) == stamp(file, verb) else ""


def require_free(file: Path, verb: str) -> None:
    """Refuse a file that exists, unless this verb has left it so, and one that cannot be written.

    Raises:
        OutputError: another file or folder is there, or nothing can be written there.
    """
    if _is_stream(file):
        return
    if os.path.lexists(file) and maker(file) != verb:
        raise OutputError(
            f"{file} exists and was not written by this program for this purpose, or was changed "
            "since; move it away or choose another name"
        )
    # What rights say is not enough: some file systems take no files whoever asks.
    folder = next(each for each in file.absolute().parents if os.path.lexists(each))
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written ({error.strerror}); choose another place"
        ) from error


@contextmanager
def result_file(file: Path, verb: str) -> Iterator[Path]:
    """A path to write to; its content becomes the result when the context ends without an error.

    Args:
        file: the result; its folder is made, and marked.
        verb: whose result it is.

    Raises:
        OutputError: another file is there.
        OSError: it cannot be written.
    """
    require_free(file, verb)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _whole(file) as part:
        yield part
    mark = read_mark(file.parent, Mark) or Mark()
    files = {**mark.files, file.name: stamp(file, verb)}
    write_mark(file.parent, mark.model_copy(update={"files": files}))


def write_whole(file: Path, text: str) -> None:
    """Write a file of a folder that is this program's own, which has it whole or as it was.

    Raises:
        OSError: it cannot be written.
    """
    with _whole(file) as part:
        part.write_text(text, encoding="utf-8")


def write_figures(file: Path, content: Any) -> None:
    """Write figures as JSON; see `result_file`."""
    text = json.dumps(content, indent=2) + "\n"
    if _is_stream(file):
        file.write_text(text, encoding="utf-8")
        return
    with result_file(file, FIGURES) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path beside the file, which takes its place when the context ends without an error."""
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _is_stream(file: Path) -> bool:
    """Whether it is no place where anything is kept, such as /dev/stdout or a pipe."""
    return file.exists() and not file.is_file() and not file.is_dir()
