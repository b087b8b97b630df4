# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Notices when time runs backwards: in the ROS clock, or, without sim time, in the stamps."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from vlm_perception.nodes.base.throttled_warnings import ThrottledWarnings
from vlm_perception.perception.fusion.ages import doubt_of
from vlm_perception.perception.fusion.stamp_order import Order, StampOrder

ONCE_S = 2.0
"""A jump of the clock and the jump of the stamps that goes with it are reported once."""
MIXED_S = 5.0
"""Stamps that step back twice within this time are those of two publishers."""


class TimeWatch:
    """Calls back when time has jumped back, once for each jump."""

    def __init__(
        self,
        node: Any,
        warnings: ThrottledWarnings,
        on_clock_jump: Callable[[], None],
        on_stamp_jump: Callable[[str], None],
    ) -> None:
        """Watch the node's clock; the stamps are shown to accepts().

        Args:
            node: whose clock it is.
            warnings: where to report late and missing stamps.
            on_clock_jump: called when the clock has gone back.
            on_stamp_jump: called with the topic whose stamps have gone back.
        """
        self._warnings = warnings
        self._clock = node.get_clock()
        self._on_clock_jump = on_clock_jump
        self._on_stamp_jump = on_stamp_jump
        self._lock = threading.Lock()
        self._stamps: defaultdict[str, StampOrder] = defaultdict(StampOrder)
        """By topic."""
        self._steps: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=2))
        """By topic, when stamps last stepped back."""
        self._reported: tuple[float, str] = (float("-inf"), "")
        self.jumps = 0
        threshold = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        self._handle = node.get_clock().create_jump_callback(
            threshold, post_callback=self._clock_jumped
        )

    def accepts(self, stamp_ns: int, topic: str) -> bool:
        """Look at the stamp of a message; false when it is late and should not be used.

        A stamp of 0 is taken (ages are then unknown) and reported.
        """
        with self._lock:
            judgement = self._stamps[topic].judge(stamp_ns)
            if judgement.back_ns:
                self._steps[topic].append(time.monotonic())
        if judgement.order is Order.UNKNOWN:
            self._warnings.add(
                "stamp_zero",
                f"a message on {topic} has stamp 0: its age is unknown and scenes are DEGRADED; "
                "the driver must set header.stamp",
            )
        elif judgement.order is Order.LATE:
            self._warnings.add(
                "out_of_order",
                f"a message on {topic} is {judgement.back_ns / 1e6:.0f} ms older than the previous "
                "one and was skipped; is there more than one publisher?",
            )
            return False
        elif judgement.order is Order.JUMPED:
            self._on_stamp_jump(topic)
            self._tell(f"stamps on {topic} went back by {judgement.back_ns / 1e9:.1f} s", topic)
        return True

    def check_clock(
        self, stamp_ns: int, topic: str, received_s: float, spent_s: float = 0.0
    ) -> None:
        """Complain of an image that is not the present, by its stamp and the node's clock.

        Args:
            stamp_ns: of the image; 0 is reported elsewhere.
            topic: that the message came on.
            received_s: monotonic time of its arrival.
            spent_s: seconds since the image reached the encoder.
        """
        now_ns = self._clock.now().nanoseconds
        arrived_ns = now_ns - round((time.monotonic() - received_s) * 1e9) if now_ns else 0
        doubt = doubt_of(stamp_ns, arrived_ns, spent_s) if stamp_ns else None
        if doubt is not None:
            kind = "slow_encoder" if doubt.age_known else "clock"
            self._warnings.add(kind, f"on {topic}: {doubt.sentence}")

    def mixed(self, topic: str) -> bool:
        """Whether the stamps of a topic go back and forth."""
        with self._lock:
            steps = tuple(self._steps[topic])
        return len(steps) == 2 and time.monotonic() - steps[0] <= MIXED_S

    def close(self) -> None:
        """Stop watching the clock."""
        self._handle.unregister()

    def _clock_jumped(self, jump: Any) -> None:
        with self._lock:
            self._stamps.clear()
        self._on_clock_jump()
        self._tell(f"the ROS clock went back by {-jump.delta.nanoseconds / 1e9:.1f} s", "")

    def _tell(self, what: str, source: str) -> None:
        """Count and log a jump of a topic, or of the clock, unless it goes with another's."""
        now, (reported_s, teller) = time.monotonic(), self._reported
        if now - reported_s <= ONCE_S and source != teller:
            return
        self.jumps += 1
        self._reported = now, source
        self._warnings.note(
            "time_jump", f"{what} (a restarted bag, or two publishers?): state was reset"
        )
