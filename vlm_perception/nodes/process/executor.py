# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""An executor for nodes whose callbacks only store what came, but whose services may take long."""

from __future__ import annotations

import threading
import traceback
from typing import Any

from rclpy.executors import Executor, ShutdownException, TimeoutException
from rclpy.logging import get_logger
from rclpy.service import Service


class ServiceThreadsExecutor(Executor):
    """Runs services and goals in threads of their own, the rest in the thread that spins.

    rclpy's MultiThreadedExecutor hands the same message to its pool again and again until a thread
    of the pool has got Python's lock (https://github.com/ros2/rclpy/pull/1547, not in Kilted): some
    eighty times for each image here, which took a core from the network.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for one callback and run it, or start it if it is a service's or a goal's."""
        try:
            task, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException):
            return
        if isinstance(entity, Service):
            self._start(task, f"service {entity.srv_name}")
        elif entity is None:
            # What create_task was given: an action server has its goals executed so.
            self._start(task, "goal")
        else:
            task()
            if (error := task.exception()) is not None:
                raise error

    def _start(self, task: Any, name: str) -> None:
        threading.Thread(target=self._run, args=(task, name), name=name, daemon=True).start()

    def _run(self, task: Any, name: str) -> None:
        task()
        if (error := task.exception()) is not None and self.context.ok():
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            get_logger("executor").error(f"{name} failed, the node continues: {trace}")
