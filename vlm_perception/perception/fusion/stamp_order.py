# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The order of a stream's stamps: which message is late, and when time has jumped back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

OUT_OF_ORDER_NS = 100_000_000
"""A stamp that goes back by less than this is a late message; by more, a time jump."""


class Order(Enum):
    """How a stamp relates to those before it."""

    IN_ORDER = "in order"
    UNKNOWN = "unknown"
    """The stamp is 0: the message is used, its age is unknown."""
    LATE = "late"
    """A message that came out of order and should not be used."""
    JUMPED = "jumped"
    """Time has jumped back, as when a bag starts again: forget what was known before."""


@dataclass(frozen=True)
class Judgement:
    """The verdict of StampOrder on a stamp."""

    order: Order
    back_ns: int = 0
    """By how much it is older than the newest one before it; 0 if it is not."""


class StampOrder:
    """Compares each stamp of a stream with the newest before it."""

    def __init__(self) -> None:
        """Expect any stamp."""
        self._newest_ns = 0

    def reset(self) -> None:
        """Expect any stamp again."""
        self._newest_ns = 0

    def judge(self, stamp_ns: int) -> Judgement:
        """Take in the next stamp of the stream."""
        if stamp_ns == 0:
            return Judgement(Order.UNKNOWN)
        back_ns = max(0, self._newest_ns - stamp_ns)
        if 0 < back_ns <= OUT_OF_ORDER_NS:
            return Judgement(Order.LATE, back_ns)
        self._newest_ns = stamp_ns
        return Judgement(Order.JUMPED if back_ns else Order.IN_ORDER, back_ns)
