# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""By a table, an object becomes a message of any library and back; what tables are made of."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from vlm_perception.common.errors import VlmPerceptionError

T = TypeVar("T")
Cast = Callable[[Any], Any]
NS = 1_000_000_000


class Library(dict[str, Callable[..., Any]]):
    """By type, package/msg/Name, what makes a message of all of its fields, given by name.

    Sequences of numbers are what `sequence` makes of an array.array; those of bytes may be any
    contiguous numpy array.
    """

    def __init__(
        self, find: Callable[[str], Callable[..., Any]], sequence: Callable[[Any], Any]
    ) -> None:
        self._find, self.sequence = find, sequence

    def __missing__(self, type_name: str) -> Callable[..., Any]:
        self[type_name] = self._find(type_name)
        return self[type_name]


class MessageError(VlmPerceptionError):
    """A message contradicts itself, or is not what its type says; the text says how."""


class Row(NamedTuple):
    """A field and an attribute, and how each is made of the other."""

    write: Callable[[Any, Library], Any]
    read: Cast
    name: str = ""
    """Of the attribute, where it is not the field's."""


class Part(NamedTuple):
    """A field that is one of the whole numbers of an attribute, in the order of the rows."""

    name: str


class Table(Generic[T]):
    """A type of message, what makes an object of its attributes, and which field is which of these.

    The row of a plain number or text is what it is cast to, as rclpy refuses numpy's scalars. The
    header needs none: in each object it is stamp_ns and frame_id.
    """

    def __init__(self, type_name: str, of: Callable[..., T], /, **rows: Cast | Row | Part) -> None:
        self.type_name, self._of = type_name, of
        others = [(f, r, r.name or f) for f, r in rows.items() if isinstance(r, Row)]
        self._writes = [(field, row.write, name) for field, row, name in others]
        self._reads = [(field, row.read, name) for field, row, name in others]
        parts: dict[str, list[str]] = {}
        for field, row in rows.items():
            if isinstance(row, Part):
                parts.setdefault(row.name, []).append(field)
        self._parts = [(name, fields, attrgetter(*fields)) for name, fields in parts.items()]
        plain = {f: cast for f, cast in rows.items() if not isinstance(cast, Row | Part)}
        self._plain, self._casts = [*plain], [*plain.values()]
        self._get_plain = attrgetter(*plain)

    def write(self, source: T, library: Library, **fields: Any) -> Any:
        """Make a message from an object and, by name, the fields that no row covers."""
        for field, cast, value in zip(
            self._plain, self._casts, self._get_plain(source), strict=True
        ):
            fields[field] = cast(value)
        for field, write, name in self._writes:
            fields[field] = write(getattr(source, name), library)
        for name, names, _ in self._parts:
            fields.update(zip(names, map(int, getattr(source, name)), strict=True))
        stamped: Any = source
        fields["header"] = header(stamped.stamp_ns, stamped.frame_id, library)
        return library[self.type_name](**fields)

    def read(self, message: Any) -> T:
        """Make an object of a message of any library.

        Raises:
            MessageError: the message contradicts itself.
        """
        values = dict(zip(self._plain, self._get_plain(message), strict=True))
        for field, read, name in self._reads:
            values[name] = read(getattr(message, field))
        for name, _, get in self._parts:
            values[name] = get(message)
        head = message.header
        return self._of(stamp_ns=stamp_ns(head.stamp), frame_id=head.frame_id, **values)


def stamp_ns(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time; 0 means unknown."""
    return int(time.sec) * NS + int(time.nanosec)


def time_message(stamp_ns: int, library: Library) -> Any:
    """A builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), NS)
    return library["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str, library: Library) -> Any:
    """The std_msgs/Header that goes with a source image."""
    stamp = time_message(stamp_ns, library)
    return library["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)
