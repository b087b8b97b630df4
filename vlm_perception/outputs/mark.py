# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The list of files that this program has put into a folder, each as it was left.

Only these are ever replaced or removed, and only while size and time are those on the list:
anything else in the folder, or changed since, belongs to the user.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from vlm_perception.common.errors import VlmPerceptionError

MARK = ".vlm_perception.json"


class OutputError(VlmPerceptionError):
    """Results cannot be written where they were asked for; the text says what to do."""


class Mark(BaseModel):
    """What this program has written into a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, tuple[str, int, int]] = {}
    """Path within the folder: the verb, size in bytes, time of the last change in nanoseconds."""
    owner: str = ""
    """The verb that may replace anything in the folder; empty: only what is listed."""

    @field_validator("files")
    @classmethod
    def _within(cls, files: dict[str, tuple[str, int, int]]) -> dict[str, tuple[str, int, int]]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{name} is outside the folder")
        return files


Marked = TypeVar("Marked", bound=Mark)


def stamp(file: Path, verb: str) -> tuple[str, int, int]:
    """The list's entry for a file in its present state."""
    status = file.lstat()
    return verb, status.st_size, status.st_mtime_ns


def read_mark(folder: Path, kind: type[Marked]) -> Marked | None:
    """The mark of a folder; one that is damaged claims nothing."""
    try:
        return kind.model_validate_json((folder / MARK).read_bytes())
    except (OSError, ValidationError):
        return None


def write_mark(folder: Path, mark: Mark) -> None:
    """Replace the mark of a folder in one step."""
    temporary = folder / f"{MARK}.new"
    temporary.write_text(mark.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / MARK)
