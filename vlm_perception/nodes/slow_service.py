# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Lets a service take its time without holding a thread of the executor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.task import Future


class BusyError(ValueError):
    """Too many requests wait already."""


class SlowService:
    """One thread that works off at most so many requests; the service awaits its own."""

    def __init__(self, node: Any, name: str, waiting: int = 4) -> None:
        """Start the thread."""
        self._node = node
        self._places = threading.BoundedSemaphore(waiting)
        self._waiting = waiting
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, work: Callable[[], Any]) -> Any:
        """Do the work in the thread and return what it returns; exceptions come through.

        Raises:
            BusyError: The queue is full.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(f"{self._waiting} requests wait already; try again in a moment")
        future: Any = Future(executor=self._node.executor)
        self._thread.submit(self._run, work, future)
        return await future

    def close(self) -> None:
        """End the thread; requests that still wait are given up."""
        self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[], Any], future: Any) -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        finally:
            self._places.release()
