# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Call services of a running graph, one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from vlm_perception.common.errors import RunError
from vlm_perception.rosgraph.participant import GraphMember

ANSWERED_WITHIN_S = 10.0


class CallError(RunError):
    """A service did not answer; the message says which."""


class ServiceCaller:
    """A participant of its own that waits for each answer; a context manager."""

    def __init__(self) -> None:
        """Prepare; the graph is joined when the context is entered."""
        self._member = GraphMember("service_caller")
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> ServiceCaller:
        """Join the graph."""
        self._member.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the graph."""
        self._member.__exit__(kind, error, trace)

    def call(
        self, service_type: Any, name: str, request: Any, within_s: float = ANSWERED_WITHIN_S
    ) -> Any:
        """Send a request and wait for the answer.

        Raises:
            CallError: there is no such service, or no answer in time.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._member.node.create_client(service_type, name)
        if not client.wait_for_service(within_s):
            raise CallError(f"there is no service {name}: its node is not running")
        future = client.call_async(request)
        self._member.executor.spin_until_future_complete(future, within_s)
        if not future.done():
            raise CallError(f"{name} did not answer within {within_s:g} s")
        return future.result()
