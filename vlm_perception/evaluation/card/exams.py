# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What other evaluations found of a bundle, read from the files that their --json wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.ordinary_files import open_ordinary

DIGEST = "bundle_digest"
LARGEST = 1 << 24
"""Bytes."""

Exam = Mapping[str, float]
"""Figures by their names."""


class ExamError(VlmPerceptionError):
    """A file holds no figures of a bundle; the message says why and what to do."""


def read_exams(files: Sequence[Path], bundles: Sequence[ModelBundle]) -> dict[str, list[Exam]]:
    """Figures of each bundle, by the names of the files; none of a bundle that a file is not of.

    Raises:
        ExamError: a file cannot be read or has no figures of any of the bundles, or two files have
            one name.
    """
    exams: dict[str, list[Exam]] = {}
    for file in files:
        if file.stem in exams:
            raise ExamError(f"two files of --exam are called {file.stem}; rename one of them")
        content = _read(file)
        try:
            found: list[Exam] = [
                dict(_figures(content, each.digest, whole=False)) for each in bundles
            ]
        except (OverflowError, RecursionError) as error:
            raise _unreadable(file, error) from error
        if not any(found):
            names = " or ".join(f"{each.manifest.name} ({each.digest[:12]})" for each in bundles)
            raise ExamError(
                f"{file} has no figures of bundle {names}; run the evaluation that wrote it with "
                "this bundle and --json"
            )
        exams[file.stem] = found
    return exams


def _read(file: Path) -> object:
    try:
        with open_ordinary(file) as stream:
            text = stream.read(LARGEST + 1)
    except OSError as error:
        raise _unreadable(file, error) from error
    if len(text) > LARGEST:
        raise _unreadable(file, f"it has more than {LARGEST} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, why: object) -> ExamError:
    return ExamError(
        f"{file} cannot be read ({why}); give a file that an evaluation wrote with --json"
    )


def _figures(
    content: object, digest: str, *, whole: bool, start: str = ""
) -> Iterator[tuple[str, float]]:
    """All numbers that belong to a bundle.

    Args:
        content: JSON.
        digest: of the bundle.
        whole: whether what the content is part of belongs to it.
        start: name of the content.
    """
    if isinstance(content, Mapping):
        own = content[DIGEST] == digest if DIGEST in content else whole
        for key, value in content.items():
            yield from _figures(value, digest, whole=own, start=_joined(start, str(key)))
    elif isinstance(content, list):
        for row in content:
            if isinstance(row, Mapping):
                yield from _figures(row, digest, whole=whole, start=_joined(start, _told(row)))
    elif whole and isinstance(content, int | float) and not isinstance(content, bool):
        yield start, float(content)


def _told(row: Mapping[str, Any]) -> str:
    """What a row of a table is of: its words."""
    words = (value for key, value in row.items() if key not in ("bundle", DIGEST))
    return " ".join(value for value in words if isinstance(value, str) and value)


def _joined(start: str, name: str) -> str:
    return ".".join(filter(None, (start, name)))
