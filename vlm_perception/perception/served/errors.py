# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between this machine and a served model."""

from __future__ import annotations

from enum import Enum

from vlm_perception.common.errors import VlmPerceptionError


class Fault(Enum):
    """The kind of an error."""

    REFUSED = "nothing listens there"
    NAME = "the host's name is unknown"
    UNREACHABLE = "no connection comes about"
    CERTIFICATE = "TLS fails"
    PEER = "the address leads to another machine"
    REDIRECT = "the server names another address"
    FOREIGN = "something else than an OpenAI-compatible server answers"
    KEY = "the server refuses the key"
    MODEL = "the server has another model"
    REQUEST = "the server refuses this one request"
    RATE = "the server is asked too often"
    UNAVAILABLE = "the server is not ready"
    SERVER = "the server fails"
    DROPPED = "the connection ended without an answer"
    CUT = "the connection ended within an answer"
    GARBLED = "the answer is malformed"
    ENDLESS = "the answer does not end"
    SILENT = "nothing comes"
    SLOW = "the answer comes too late"
    BUSY = "other requests of this node go first"
    OPEN = "the server has failed before and is left alone for a moment"
    CLOSED = "this connection has been closed"
    MISSING = "a package is not installed"


RETRIED = frozenset({Fault.REFUSED, Fault.DROPPED, Fault.RATE, Fault.UNAVAILABLE})
"""May pass within a moment, and the model has not begun to answer."""

LASTING = frozenset(
    {
        Fault.CERTIFICATE,
        Fault.PEER,
        Fault.REDIRECT,
        Fault.FOREIGN,
        Fault.KEY,
        Fault.MODEL,
        Fault.RATE,
    }
)
"""The next request would fail in the same way."""

HARMLESS = frozenset({Fault.REQUEST, Fault.BUSY, Fault.OPEN, Fault.CLOSED, Fault.MISSING})
"""Say nothing about the server's state."""


LATE = frozenset({Fault.SILENT, Fault.SLOW})
"""With less to do, the server might have answered in time."""


class ServedError(VlmPerceptionError):
    """A served model did not answer; the message says why and what to do."""

    def __init__(self, fault: Fault, message: str, *, wait_s: float | None = None) -> None:
        """Describe it.

        Args:
            fault: its kind.
            message: one sentence with cause and remedy.
            wait_s: how long the server asks to be left alone.
        """
        super().__init__(message)
        self.fault = fault
        self.wait_s = wait_s
