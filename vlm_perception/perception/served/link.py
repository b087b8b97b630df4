# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a served model needs of whatever brings its answers: a connection, or a record of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from vlm_perception.perception.served.completions import Delta, Request

if TYPE_CHECKING:
    from vlm_perception.perception.served.server_info import ServerInfo


class Answer(Iterator[Delta], Protocol):
    """The pieces of an answer; closing it gives up what has not come yet."""

    def close(self) -> None:
        """Give up what has not come yet."""
        ...


class Inquiry(Protocol):
    """A question to a server about itself."""

    def result(self) -> ServerInfo | None:
        """Wait for what is known of the server.

        Raises:
            ServedError: it does not serve the model, says nothing in time, or this was closed.
        """
        ...

    def close(self) -> None:
        """Wait no longer."""
        ...


class Link(Protocol):
    """Brings the answers of one model; for any thread."""

    def check(self, timeout_s: float) -> Inquiry:
        """Begin to find out, within this time, whether the model is served.

        Raises:
            ServedError: the link has been closed.
        """
        ...

    def stream(self, request: Request, *, budget_s: float, total_s: float | None = None) -> Answer:
        """Ask the model.

        Args:
            request: what is asked.
            budget_s: each piece comes within this time of the one before.
            total_s: the answer is whole within this time; None: however long it takes.

        Raises:
            ServedError: it cannot be asked now.
        """
        ...

    def issue(self) -> str:
        """Why it cannot be asked now, in one sentence; empty: it can."""
        ...

    def admits(self) -> bool:
        """Whether a request would be sent."""
        ...

    def figures(self) -> Mapping[str, str]:
        """What the diagnostics show."""
        ...

    def close(self) -> None:
        """End everything."""
        ...
