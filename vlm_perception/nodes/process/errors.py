# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a node from starting, or ends it, and what happens to unexpected errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError


def text_of(error: BaseException) -> str:
    """Return an error's text, even if producing it fails."""
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, whose text is unavailable"


def guarded(node: Any, callback: Callable[..., None]) -> Callable[..., None]:
    """Return a callback of a PerceptionNode whose errors are counted and logged as a worker's are.

    The executor would log them, too, but each time and without counting them.
    """

    def call(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            node.worker_failed(error)

    return call


class EndedError(Exception):
    """The process was asked to end before the node was ready: that is no failure."""


class DoneError(VlmPerceptionError):
    """The node has done all that it was started for while it configured; its process ends."""


class StartError(VlmPerceptionError):
    """The process cannot do what it was started for; the text says why and what to do."""


class ArgumentError(StartError):
    """An argument of a launch file has a value that cannot be used."""
