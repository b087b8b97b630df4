# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes messages of rosbags, without ROS, and the CDR that goes over the wire and into bags."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vlm_perception.common.share import share_folder
from vlm_perception.messages.codec import NS, Library, MessageError

_STAMP = struct.Struct("<iI")
_CDR_HEADER_BYTES = 4


@cache
def message_types() -> Typestore:
    """The definitions of ROS's own messages and, from their installed files, of the package's."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted((share_folder() / "msg").glob("*.msg")):
        text = file.read_text(encoding="utf-8")
        types.register(get_types_from_msg(text, f"vlm_perception/msg/{file.stem}"))
    return types


ROSBAGS = Library(lambda type_name: message_types().types[type_name], np.asarray)


def serialized(message: Any) -> bytes:
    """A message as it goes over the wire and into a bag."""
    return bytes(message_types().serialize_cdr(message, message.__msgtype__))


def read_cdr(data: bytes, type_name: str) -> Any:
    """A message of ROS's or of the package's own types.

    Raises:
        MessageError: it is damaged, or of another version of the type.
    """
    try:
        return message_types().deserialize_cdr(data, type_name)
    # For a message that does not match its type, the reader raises nearly anything.
    except Exception as error:
        raise unreadable(type_name, error) from error


def unreadable(type_name: str, error: Exception) -> MessageError:
    """The error for what a reader of such a message raised."""
    return MessageError(f"the message is not a {type_name}: {str(error) or type(error).__name__}")


def stamp_of_serialized(data: bytes) -> int:
    """Stamp in nanoseconds of a serialized message whose first field is a std_msgs/Header.

    Reading eight bytes instead of the message is what makes it cheap to watch large topics.

    Raises:
        struct.error: the message is shorter.
    """
    seconds, nanoseconds = _STAMP.unpack_from(data, _CDR_HEADER_BYTES)
    return int(seconds) * NS + int(nanoseconds)
