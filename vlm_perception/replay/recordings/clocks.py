# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which clock a replay goes by: that of the recording, or that of the images' stamps.

The two are one where a robot recorded its own camera. They are apart where the stamps are those of
a simulation or count from the start of a computer, and where a bag was played and recorded again:
ages relative to the recording time are then meaningless, and would make each scene doubtful.
"""

from __future__ import annotations

from collections.abc import Collection
from statistics import median_low

from vlm_perception.perception.fusion.ages import CLOCKS_APART_S, LATE_S

STAMPS, RECORDING = "stamps", "recording"
LOOKED_AT = 20
"""Images at the beginning from which the distance of the two clocks is taken."""


def clock_offset_ns(times: Collection[tuple[int, int]]) -> int:
    """How long after their stamps images were recorded, usually.

    Args:
        times: for each image when it was recorded, and its stamp; those without a stamp do not
            count. Nanoseconds.
    """
    offsets = [time_ns - stamp_ns for time_ns, stamp_ns in times if stamp_ns]
    return median_low(offsets) if offsets else 0


def choose_clock(asked: str | None, offset_ns: int) -> tuple[str, str]:
    """The clock that a replay uses, and a note about it.

    Args:
        asked: STAMPS or RECORDING; None: STAMPS where the two clocks are apart.
        offset_ns: from `clock_offset_ns`.

    Returns:
        STAMPS or RECORDING, and a sentence; that is empty where the clocks are one.
    """
    seconds = offset_ns * 1e-9
    if -CLOCKS_APART_S <= seconds <= LATE_S:
        return asked or RECORDING, ""
    chosen = asked or STAMPS
    other = STAMPS if chosen == RECORDING else RECORDING
    where = "before" if seconds > 0 else "after"
    return chosen, (
        f"the images' stamps are {abs(seconds):.1f} s {where} the recording times: they are from "
        "another clock, as in a simulation, or the bag was re-recorded; ages use the clock of the "
        f"{chosen}, with --time {other} that of the {other}"
    )
