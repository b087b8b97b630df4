# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Call services of a running graph, one after the other."""

from __future__ import annotations

from types import TracebackType
from typing import Any

ANSWERED_WITHIN_S = 10.0


class CallError(RuntimeError):
    """A service did not answer; the message says which."""


class ServiceCaller:
    """A participant of its own that waits for each answer; a context manager."""

    def __enter__(self) -> ServiceCaller:
        """Join the graph."""
        import rclpy  # noqa: PLC0415
        from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415
        from rclpy.signals import SignalHandlerOptions  # noqa: PLC0415

        self._context = rclpy.context.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("service_caller", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def call(
        self, service_type: Any, name: str, request: Any, within_s: float = ANSWERED_WITHIN_S
    ) -> Any:
        """Send a request and wait for the answer.

        Raises:
            CallError: there is no such service, or no answer in time.
        """
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._node.create_client(service_type, name)
        if not client.wait_for_service(within_s):
            raise CallError(f"there is no service {name}; its node does not run")
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, within_s)
        if not future.done():
            raise CallError(f"{name} did not answer within {within_s:g} s")
        return future.result()
