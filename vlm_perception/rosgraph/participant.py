# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Take part in a running graph beside whatever else this process does."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from vlm_perception.rosgraph.environment import GraphEnvironmentError


class GraphMember:
    """A node with a context and an executor of its own, so that one process can hold several.

    A context manager. Signals are left to the process.
    """

    node: Any
    """Set while the context is entered, and so is executor."""
    executor: Any

    def __init__(self, name: str, namespace: str = "") -> None:
        """Prepare; the graph is joined when the context is entered."""
        self._name, self._namespace = name, namespace
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> GraphMember:
        """Join the graph.

        Raises:
            GraphEnvironmentError: ROS refuses, as for a domain that is none.
        """
        import rclpy  # noqa: PLC0415
        from rclpy.exceptions import NameValidationException  # noqa: PLC0415
        from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415
        from rclpy.signals import SignalHandlerOptions  # noqa: PLC0415

        self._context = rclpy.context.Context()
        try:
            rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
            self.node = rclpy.create_node(
                self._name, context=self._context, namespace=self._namespace or None
            )
        # What rcl fails at is a subclass of RuntimeError.
        except (RuntimeError, NameValidationException) as error:
            raise GraphEnvironmentError(
                f"the ROS graph cannot be joined ({' '.join(str(error).split())}): correct the "
                "namespace, ROS_DOMAIN_ID or RMW_IMPLEMENTATION"
            ) from error
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the graph."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin_aside(self) -> None:
        """Run callbacks on a thread from now on, until the context is left."""
        self._thread = threading.Thread(target=self._spin, name=self._name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise here what went wrong on that thread."""
        if self._failure is not None:
            raise self._failure

    def _spin(self) -> None:
        try:
            while not self._stop.is_set():
                self.executor.spin_once(timeout_sec=0.1)
        except BaseException as error:  # Raised again by check(), on the thread that can act.
            self._failure = error
