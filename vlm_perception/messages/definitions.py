# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads recorded messages by the definition with which they were recorded.

CDR holds neither names nor types of fields: by another definition than the writer's, a message is
noise, or wrong without a sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.earlier import EARLIER
from vlm_perception.messages.rosbags import ROSBAGS, message_types, unreadable

NAMED_AT_MOST = 3
"""Differences from our own definition that are named."""


class Version(NamedTuple):
    """A definition of a type, and values for the fields that its messages lack."""

    types: Typestore
    missing: dict[str, Any]


@cache
def reader(type_name: str, definition: str = "", digest: str = "") -> Callable[[bytes], Any]:
    """What makes a message of recorded CDR, with the fields of this version of the package.

    Args:
        type_name: of the package's own or of ROS's types.
        definition: the recording's definition of the type; empty: none.
        digest: the type's RIHS01 hash in the recording; empty: it holds none.

    Returns:
        A function of the message's bytes, which raises MessageError for a damaged message.

    Raises:
        MessageError: the recorded type lacks something or is not known, so that it cannot be read.
    """
    versions = [Version(message_types(), {}), *_earlier(type_name)]
    carried = _carried(type_name, definition)
    if carried is not None:
        versions = [_matching(type_name, carried, versions)]
    elif digest:
        versions = [each for each in versions if each.types.hash_rihs01(type_name) == digest]
    if not versions:
        raise MessageError(
            f"the recording contains {type_name} in an unknown version, {digest}, without its "
            "definition; read it with the version of the package that recorded it"
        )
    return partial(_read, type_name, versions)


def definition_types(type_name: str, definition: str) -> Any:
    """The types in a recording's own definition of a type.

    Raises:
        TypesysError: the definition cannot be read.
    """
    rule = "=" * 80 + "\n"
    if not definition.startswith(f"{rule}IDL: "):
        return get_types_from_msg(definition, type_name)
    types: dict[str, Any] = {}
    for part in definition.split(rule)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def layout(types: Typestore, type_name: str) -> dict[str, str]:
    """The types of a message's fields and of those of the messages within it, by their paths.

    Raises:
        KeyError: a type is not there.
    """
    found: dict[str, str] = {}
    for name, description in types.fielddefs[type_name][1]:
        within, base, many = _taken_apart(description)
        if within:
            inside = layout(types, within)
            found |= {f"{name}{many}.{path}": kind for path, kind in inside.items()}
        else:
            found[name] = base + many
    return found


def _taken_apart(description: Any) -> tuple[str, str, str]:
    """The type of the messages in a field or else its plain type, and how many it holds."""
    (node, detail), many = description, ""
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        bound = "<=" if node == Nodetype.SEQUENCE and detail[1] else ""
        many = f"[{bound}{detail[1] or ''}]"
        node, detail = detail[0]
    return (detail, "", many) if node == Nodetype.NAME else ("", detail[0], many)


def _read(type_name: str, versions: Sequence[Version], data: bytes) -> Any:
    """Make a message by the first version that fits."""
    failure: Exception | None = None
    for types, missing in versions:
        try:
            message: Any = types.deserialize_cdr(data, type_name)
            return ROSBAGS[type_name](**vars(message), **missing) if missing else message
        # For a message that does not match its type, the reader raises nearly anything.
        except Exception as error:
            failure = failure or error
    raise unreadable(type_name, failure or ValueError()) from failure


def _earlier(type_name: str) -> list[Version]:
    return [
        Version(_store(get_types_from_msg(definition, type_name)), missing)
        for definition, missing in EARLIER.get(type_name, ())
    ]


def _carried(type_name: str, definition: str) -> Typestore | None:
    """The types that a recording defines; None if it defines none that can be read."""
    if not definition:
        return None
    try:
        types = _store(definition_types(type_name, definition))
        layout(types, type_name)
    # Of a damaged text, parsers make nearly anything.
    except Exception:
        return None
    return types


def _store(types: dict[str, Any]) -> Typestore:
    """A store of these types; those of the messages within, where they lack, are the known ones."""
    wanted = list(types)
    while wanted:
        for _, description in types[wanted.pop()][1]:
            name = _taken_apart(description)[0]
            if name and name not in types:
                types[name] = message_types().fielddefs[name]
                wanted.append(name)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _matching(type_name: str, carried: Typestore, versions: Sequence[Version]) -> Version:
    """One of the versions where it is that which the recording carries; else what it carries.

    Raises:
        MessageError: it lacks something.
    """
    theirs = layout(carried, type_name)
    for version in versions:
        if list(layout(version.types, type_name).items()) == list(theirs.items()):
            return version
    ours = layout(message_types(), type_name)
    differences = [f"no {path}" for path in ours if path not in theirs]
    differences += [
        f"{path} as {theirs[path]} and not {kind}"
        for path, kind in ours.items()
        if theirs.get(path, kind) != kind
    ]
    if differences:
        more = len(differences) - NAMED_AT_MOST
        named = ", ".join(differences[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        raise MessageError(
            f"the {type_name} in the recording differs from this package's: it has {named}; read "
            "it with the version of the package that recorded it"
        )
    return Version(carried, {})
