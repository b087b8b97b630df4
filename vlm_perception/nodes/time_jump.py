# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Notices when time runs backwards: in the ROS clock, or, without sim time, in the stamps."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from vlm_perception.nodes.complaints import Complaints
from vlm_perception.perception.stamps import Order, StampOrder

ONCE_S = 2.0
"""A jump of the clock and the jump of the stamps that goes with it are told once."""


class TimeWatch:
    """Calls back when time has jumped back, once for each jump."""

    def __init__(
        self,
        node: Any,
        complaints: Complaints,
        on_clock_jump: Callable[[], None],
        on_stamp_jump: Callable[[str], None],
    ) -> None:
        """Watch the node's clock; the stamps are shown to accepts().

        Args:
            node: whose clock it is.
            complaints: where to complain of late and missing stamps.
            on_clock_jump: called when the clock has gone back.
            on_stamp_jump: called with the topic whose stamps have gone back.
        """
        self._logger = node.get_logger()
        self._complaints = complaints
        self._on_clock_jump = on_clock_jump
        self._on_stamp_jump = on_stamp_jump
        self._lock = threading.Lock()
        self._stamps: defaultdict[str, StampOrder] = defaultdict(StampOrder)
        """By topic."""
        self._told_s = float("-inf")
        self.jumps = 0
        threshold = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        self._handle = node.get_clock().create_jump_callback(
            threshold, post_callback=self._clock_jumped
        )

    def accepts(self, stamp_ns: int, topic: str) -> bool:
        """Look at the stamp of a message; false when it is late and should not be used.

        A stamp of 0 is taken (ages are then unknown) and complained of.
        """
        with self._lock:
            judgement = self._stamps[topic].judge(stamp_ns)
        if judgement.order is Order.UNKNOWN:
            self._complaints.add(
                "stamp_zero",
                f"a message on {topic} has stamp 0: its age is unknown and scenes are DEGRADED; "
                "the driver must set header.stamp",
            )
        elif judgement.order is Order.LATE:
            self._complaints.add(
                "out_of_order",
                f"a message on {topic} is {judgement.back_ns / 1e6:.0f} ms older than the one "
                "before and was skipped; is there more than one publisher?",
            )
            return False
        elif judgement.order is Order.JUMPED:
            self._on_stamp_jump(topic)
            self._tell(f"stamps on {topic} went back by {judgement.back_ns / 1e9:.1f} s")
        return True

    def close(self) -> None:
        """Stop watching the clock."""
        self._handle.unregister()

    def _clock_jumped(self, jump: Any) -> None:
        with self._lock:
            self._stamps.clear()
        self._on_clock_jump()
        self._tell(f"the ROS clock went back by {-jump.delta.nanoseconds / 1e9:.1f} s")

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        if now - self._told_s > ONCE_S:
            self.jumps += 1
            self._logger.warning(f"{what} (a bag that starts again?): state was reset")
        self._told_s = now
