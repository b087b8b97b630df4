# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which files an ONNX graph reads beside its own; runtimes open any path that is given there.

Reads protobuf's wire format itself: onnx is no part of the runtime, and a graph's weights would be
copied. Fields are those of onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlm_perception.common.errors import VlmPerceptionError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
KEY, VALUE = 1, 2
"""Fields of an entry of external_data."""
LOCATION = b"location"
DEEPEST = 64
"""Graphs within graphs."""


class GraphError(VlmPerceptionError):
    """A file is no ONNX graph."""


@dataclass
class _Message:
    """A kind of message, and those of its fields which may contain a tensor."""

    fields: dict[int, _Message] = field(default_factory=dict)


_ENTRY = _Message()
_TENSOR = _Message({13: _ENTRY})
_SPARSE = _Message({1: _TENSOR, 2: _TENSOR})
_ATTRIBUTE = _Message({5: _TENSOR, 10: _TENSOR, 22: _SPARSE, 23: _SPARSE})
_NODE = _Message({5: _ATTRIBUTE})
_GRAPH = _Message({1: _NODE, 5: _TENSOR, 15: _SPARSE})
_ATTRIBUTE.fields |= {6: _GRAPH, 11: _GRAPH}
_FUNCTION = _Message({7: _NODE, 11: _ATTRIBUTE})
_TRAINING = _Message({1: _GRAPH, 2: _GRAPH})
_MODEL = _Message({7: _GRAPH, 20: _TRAINING, 25: _FUNCTION})


def external_files(graph: Path) -> set[str]:
    """Paths of the files that contain tensors of a graph, as written in it.

    Raises:
        GraphError: the file is no ONNX graph.
        OSError: the file cannot be read.
    """
    with graph.open("rb") as stream:
        if graph.stat().st_size == 0:
            raise GraphError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # Each entry spells it out; few graphs have any, and those are read more closely.
            if content.find(LOCATION) < 0:
                return set()
            return set(_locations(content, 0, len(content), _MODEL, DEEPEST))


def _locations(
    content: mmap.mmap, start: int, end: int, kind: _Message, deepest: int
) -> Iterator[str]:
    if not deepest:
        raise GraphError(f"it is nested more than {DEEPEST} deep")
    named = False
    values: list[str] = []
    for number, first, last in _parts(content, start, end):
        if kind is _ENTRY:
            named |= number == KEY and content[first:last] == LOCATION
            if number == VALUE:
                values.append(content[first:last].decode("utf-8", "replace"))
        elif number in kind.fields:
            yield from _locations(content, first, last, kind.fields[number], deepest - 1)
    if named:
        yield from values


def _parts(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field that holds bytes."""
    place = start
    while place < end:
        tag, place = _varint(content, place, end)
        kind, size = tag & 7, 0
        if kind == VARINT:
            _, place = _varint(content, place, end)
        elif kind == BYTES:
            size, place = _varint(content, place, end)
            yield tag >> 3, place, place + size
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise GraphError(f"byte {place} does not start a protobuf field")
        place += size
        if place > end:
            raise GraphError(f"it ends inside a field, at byte {end}")


def _varint(content: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise GraphError(f"there is no number at byte {place}")
