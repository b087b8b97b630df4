# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Calls something again and again from a thread of its own, whatever the executor does.

A ROS timer would wake the executor, which collects all entities of the node each time.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

ENDS_WITHIN_S = 1.0
TOLD_EVERY_S = 5.0


class Ticker:
    """Calls a function with a pause after each call; what it raises is logged, and it goes on."""

    def __init__(self, node: Any, name: str, pause_s: float, tick: Callable[[], None]) -> None:
        """Start to call.

        Args:
            node: whose logger gets errors; nothing is called before an executor has it, when it may
                not be whole yet, nor once its context has ended.
            name: of the thread.
            pause_s: seconds between the end of a call and the next one.
            tick: what is called.
        """
        self._node, self._pause_s, self._tick = node, pause_s, tick
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call no more, and wait for the call that runs; from any thread but its own."""
        self._closed.set()
        self._thread.join(ENDS_WITHIN_S)

    def _run(self) -> None:
        context = self._node.context
        while not self._closed.wait(self._pause_s) and context.ok():
            try:
                if self._node.executor is not None:
                    self._tick()
            except Exception:
                # Publishing after the context has ended fails, and no one misses it.
                if context.ok():
                    self._node.get_logger().error(
                        f"internal error, the node continues: {traceback.format_exc()}",
                        throttle_duration_sec=TOLD_EVERY_S,
                    )
