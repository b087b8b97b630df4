# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Makes messages of rclpy."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Callable
from typing import Any

from vlm_perception.messages.codec import Library


def _find(type_name: str) -> Callable[..., Any]:
    package, _, name = type_name.split("/")
    kind: Callable[..., Any] = getattr(importlib.import_module(f"{package}.msg"), name)
    data = getattr(kind(), "data", None)
    if not isinstance(data, array) or data.typecode != "B":
        return kind

    def make(data: Any, **fields: Any) -> Any:
        # Appended to what is there it is copied once: the constructor does so twice, and looks at
        # each byte of anything but an array.array.
        message = kind(**fields)
        message.data.frombytes(data)
        return message

    return make


ROS = Library(_find, lambda numbers: numbers)
