# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the sources of a set held when it was made; no file is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm_perception.curation.json_lines import json_line


def digested(
    tasks: Iterable[dict[str, Any]], tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The tasks of the sources; after the last one their digest is told.

    The digest is of what is known of each file, its size and when it was written.
    """
    digest = hashlib.sha256()
    for task in tasks:
        for line in _lines(task):
            digest.update(json_line(line))
        yield task
    tell(digest.hexdigest())


def source_digest(tasks: Iterable[dict[str, Any]]) -> str:
    """The digest of the sources' tasks."""
    told: list[str] = []
    for _ in digested(tasks, told.append):
        pass
    return told[0]


def _lines(task: dict[str, Any]) -> Iterator[Any]:
    if task["kind"] == "files":
        for item in task["items"]:
            yield item, _state(Path(task["root"]) / item["path"])
        return
    path = Path(task["path"])
    yield path.name, _state(path)
    # A recording may be a folder.
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            yield name, _state(Path(folder) / name)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        known = file.stat()
    # A list may name what no file system has.
    except (OSError, ValueError):
        return None
    return known.st_size, known.st_mtime_ns
