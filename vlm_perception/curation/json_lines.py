# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""JSON lines that are whole or absent, whatever ends the program or the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.outputs.durable import whole_file


class DamagedError(VlmPerceptionError):
    """A file of this program is not as it was written; the text says what makes it again."""


def write_lines(file: Path, records: Iterable[Any]) -> None:
    """Write JSON values, one a line; see `whole_file`."""
    with whole_file(file) as stream:
        for record in records:
            stream.write(json_line(record))


def json_line(record: Any) -> bytes:
    """A JSON value on a line, the same bytes for the same value."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def read_lines(file: Path, remedy: str = "") -> Iterator[dict[str, Any]]:
    """The objects of a file that was written a line each.

    Args:
        file: that of a stage, or another one.
        remedy: what makes another one again.

    Raises:
        DamagedError: it is missing, or was altered or cut off since.
    """
    remedy = remedy or f"make it again with --redo {file.parent.name}"
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                found = _object(line)
                if found is None:
                    raise DamagedError(f"{file} is damaged in line {number}; {remedy}")
                yield found
    except FileNotFoundError as error:
        raise DamagedError(f"{file} is missing; {remedy}") from error


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
