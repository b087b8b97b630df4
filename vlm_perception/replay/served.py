# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A served model in a replay: asked itself and written down, or answered for by such a record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_perception.perception.language.served.abilities import Abilities
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import ServedSettings
from vlm_perception.perception.served.connection import Connection
from vlm_perception.perception.served.record import Record, Recording, Replayed, Writer
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.virtual_time import VirtualClock

Make = Callable[[VirtualClock], ServedModel]
LIVE = "live"
"""Asks the server itself; such a replay is not the same again."""


@contextmanager
def served_by(
    settings: ServedSettings | None,
    how: str | None,
    file: Path,
    reach: Mapping[str, Any] | None = None,
) -> Iterator[Make | None]:
    """What makes the model that the parameters name; None where the bundle's own is meant.

    Args:
        settings: the language node's parameters, where a server runs its model.
        how: LIVE, or the path of a record.
        file: where a live run writes one.
        reach: settings for the way to the server, in place of those of the parameters.

    Raises:
        ReplayError: the two do not belong together.
        RecordError: the record cannot be read.
        ServedError: the server cannot be asked.
        EndpointError: its address cannot be used.
    """
    if reach and how != LIVE:
        raise ReplayError(
            "--key-file, --allow-remote and --allow-plain-http are for the way to a server; ask it "
            "with --served live, or leave them out"
        )
    if settings is None:
        if how is not None:
            raise ReplayError(
                "--served is for a language model that a server runs; set `language: served` of "
                "language_reasoner in the file of parameters, or leave it out"
            )
        yield None
        return
    # One after the other: the answers come in the same order each time.
    settings = dataclasses.replace(settings, slots=1, **(reach or {}))
    if how is None:
        raise ReplayError(
            f"a server runs the language model {settings.model} of these parameters; ask it with "
            "--served live, or give the record of an earlier run with --served FILE"
        )
    if how != LIVE:
        yield _recorded(settings, Path(how))
        return
    connection = Connection(settings.checked_endpoint())
    writer = Writer(file, settings.model)
    try:
        yield _live(settings, connection, writer)
    finally:
        connection.close()
        writer.close()


def _live(settings: ServedSettings, connection: Connection, writer: Writer) -> Make:
    abilities = ServedModel(connection, settings).find_abilities()
    writer.server(dataclasses.asdict(abilities))

    def make(clock: VirtualClock) -> ServedModel:
        link = Recording(connection, writer, time.monotonic, _passing(clock))
        return ServedModel(link, settings, clock=clock, abilities=abilities)

    return make


def _recorded(settings: ServedSettings, file: Path) -> Make:
    record = Record.read(file)
    if record.model != settings.model:
        raise ReplayError(
            f"{file} is a record of {record.model}, and the parameters name {settings.model}; give "
            "the record of that model, or ask it with --served live"
        )
    try:
        abilities = Abilities(**record.server)
    except TypeError as error:
        raise ReplayError(f"{file} does not say what the server can do: {error}") from error

    def make(clock: VirtualClock) -> ServedModel:
        return ServedModel(
            Replayed(record, _passing(clock)), settings, clock=clock, abilities=abilities
        )

    return make


def _passing(clock: VirtualClock) -> Callable[[float], None]:
    """Lets virtual time pass by as much as was waited, in microseconds as a record has them."""
    return lambda seconds: clock.advance(1e3 * round(seconds, 6))
