# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measurements of this machine, made once and kept in a file of the user's cache."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from vlm_perception.common.machine import cache_directory

MOST_KEPT = 100

_log = logging.getLogger(__name__)


class Measurement(BaseModel):
    """One entry of a cache: what was asked; what the measurement found is in the subclass."""

    question: dict[str, Any]


MeasurementT = TypeVar("MeasurementT", bound=Measurement)


def kept(
    name: str,
    kind: type[MeasurementT],
    question: Mapping[str, Any],
    measure: Callable[[], tuple[MeasurementT, bool]],
) -> MeasurementT:
    """Return the measurement that was once made for a question, or make and keep it.

    Processes that ask at the same time take turns, so that none measures another one's load.

    Args:
        name: of the file in the cache.
        kind: what the file holds.
        question: all that the result depends on, the machine included; for JSON.
        measure: makes the measurement, whose `question` is this one, and says whether it is worth
            keeping.
    """
    file = cache_directory() / name
    entries: TypeAdapter[list[MeasurementT]] = TypeAdapter(list[kind])  # type: ignore[valid-type]
    with _alone(file):
        found = _read(file, entries)
        for each in found:
            if each.question == question:
                return each
        made, lasts = measure()
        if lasts:
            _write(file, entries, [*found, made][-MOST_KEPT:])
    return made


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock for as long as it is entered."""
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            _log.warning("measurements cannot be saved for the next start: %s", error)
        yield


def _read(file: Path, entries: TypeAdapter[list[MeasurementT]]) -> list[MeasurementT]:
    try:
        return entries.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        _log.warning("%s cannot be read and is rebuilt: %s", file, error)
        return []


def _write(
    file: Path, entries: TypeAdapter[list[MeasurementT]], found: Sequence[MeasurementT]
) -> None:
    """Replace the cache in one step; where that is not possible, the next start measures again."""
    try:
        with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as stream:
            stream.write(entries.dump_json(list(found), indent=2))
        Path(stream.name).replace(file)
    except OSError as error:
        _log.warning("%s cannot be written: %s", file, error)
