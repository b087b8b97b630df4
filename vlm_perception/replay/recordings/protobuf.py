# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of a protobuf message by their numbers, which never change.

Four messages are read, all of them flat: less than it takes to get along with every version of the
protobuf library that a robot's other packages ask for. Format:
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from vlm_perception.common.errors import VlmPerceptionError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


class ProtobufError(VlmPerceptionError):
    """Bytes are no message of protobuf."""


def protobuf_fields(data: bytes) -> dict[int, int | bytes]:
    """The last value of each field: integers, or bytes for strings and messages.

    Raises:
        ProtobufError: the message breaks off, or is none.
    """
    fields: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            fields[key >> 3], at = _varint(data, at)
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ProtobufError(f"{kind} is not a protobuf wire type")
        value = data[at : at + length]
        if len(value) < length:
            raise ProtobufError("the message is truncated")
        fields[key >> 3] = value if kind == BYTES else int.from_bytes(value, "little")
        at += length
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next field begins."""
    value = 0
    for place, byte in enumerate(data[at : at + LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ProtobufError("the message is truncated")
