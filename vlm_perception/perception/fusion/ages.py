# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How old a stamp is by the clock, and what speaks against believing that."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.types import UNKNOWN_AGE

NANOSECONDS = 1e-9
CLOCKS_APART_S = 0.1
"""Stamps further ahead of the clock than this come from a clock of their own."""
LATE_S = 2.0
"""An image that is older than this when it is used is not the present."""
SLOW_SHARE = 0.5
"""Of a silence: an encoder whose last embedding took longer may be at work still."""
UNITS = ((365.25 * 86400.0, "years"), (86400.0, "days"), (3600.0, "h"))


@dataclass(frozen=True)
class Doubt:
    """Why a frame is not the present, or not known to be."""

    sentence: str
    """Cause and remedy."""
    age_known: bool
    """Whether its age by the clock is true all the same."""


def age_of(stamp_ns: int, now_ns: int) -> float:
    """Seconds since a stamp; a stamp from the future is taken for now. Negative: not known."""
    if not stamp_ns or not now_ns:
        return UNKNOWN_AGE
    return max(0.0, (now_ns - stamp_ns) * NANOSECONDS)


def doubt_of(stamp_ns: int, now_ns: int, spent_s: float = 0.0) -> Doubt | None:
    """Return why a frame's stamp does not show that it is current; None: it does.

    Args:
        stamp_ns: of the image.
        now_ns: the ROS time at which the frame is used; 0: it is stopped.
        spent_s: seconds since the image reached the encoder, as far as they were measured.
    """
    if not stamp_ns:
        return Doubt(
            "the camera sends no timestamps, so ages are unknown: its driver must set header.stamp",
            age_known=False,
        )
    if not now_ns:
        return Doubt(
            "the ROS clock is at 0, so ages are unknown: publish /clock, or set use_sim_time to "
            "false",
            age_known=False,
        )
    age = (now_ns - stamp_ns) * NANOSECONDS
    if age < -CLOCKS_APART_S:
        return Doubt(
            f"the image's stamp is {spell(-age)} in the future: set the camera's clock, or this "
            "machine's",
            age_known=False,
        )
    spent_s = min(spent_s, age) if spent_s > 0.0 else 0.0
    if age - spent_s > LATE_S:
        return Doubt(
            f"the image was {spell(age - spent_s)} old when it arrived: set the camera's clock, "
            "play bags with --clock and use_sim_time, or find out why the camera delivers late",
            age_known=False,
        )
    if age > LATE_S:
        return Doubt(
            f"the image was {spell(age)} old when its embedding arrived, of which the encoder took "
            f"{spell(spent_s)}: the network is too large for this machine, or other programs use "
            "its cores; see latency_p95_ms of vision_encoder on /diagnostics",
            age_known=True,
        )
    return None


def slow_encoder(spent_s: float, silent_s: float) -> str:
    """In brackets that a silence may be the encoder's slowness; empty: it is too long for that.

    Args:
        spent_s: seconds that the encoder has spent on its last embedding.
        silent_s: seconds since that came.
    """
    if spent_s < SLOW_SHARE * silent_s:
        return ""
    return f" (the encoder took {spell(spent_s)} for the last one)"


def spell(seconds: float) -> str:
    """Write a duration in a unit that people can grasp."""
    for length, unit in UNITS:
        if seconds >= 2.0 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
