# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Finds tasks that ask a server, mostly a paid one, to judge answers, and keeps them from it.

Nothing in a task's file says so, and one Python file often serves both kinds of tasks. So an answer
is scored for trial, before the long work, while no connection can be made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRIALS = ("", "The answer cannot be told from what is seen.")
"""Silence, and what matches none of the choices: judges are asked where a rule has no verdict."""
PRETENDED = ("OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY")
"""Without a key clients fail before they connect."""
_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class ConnectionMade(BaseException):
    """A connection was begun while none is allowed; the text names the other side."""


class _Guard:
    """Raises at each connection, in every thread, while it is closed."""

    def __init__(self) -> None:
        self.closed = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.closed and event in _CONNECTS:
            host = arguments[-1] if event in ("socket.connect", "socket.sendto") else arguments[0]
            # A path is a socket of this machine.
            if not isinstance(host, bytes) and not str(host).startswith("/"):
                raise ConnectionMade(str(host[0] if isinstance(host, tuple) else host))


_guard: _Guard | None = None


@contextmanager
def no_connections() -> Iterator[None]:
    """Within this context whoever begins a connection over a network gets ConnectionMade."""
    global _guard  # noqa: PLW0603 - a hook cannot be removed, so there is one
    _guard = _guard or _Guard()
    before, _guard.closed = _guard.closed, True
    try:
        yield
    finally:
        _guard.closed = before


def judge_of(score: Callable[[str], object]) -> str:
    """Return the server that is asked while an answer is scored; empty: none is.

    Args:
        score: scores an answer as the only one of its task.
    """
    added = [name for name in PRETENDED if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "none"))
    try:
        with no_connections():
            for trial in TRIALS:
                try:
                    score(trial)
                except ConnectionMade as made:
                    return str(made)
                # Of one answer some metrics cannot be had; what matters is whether it was sent.
                except Exception:
                    continue
    finally:
        for name in added:
            os.environ.pop(name, None)
    return ""
