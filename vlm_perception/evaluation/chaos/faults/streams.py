# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the camera and of the clock, each with what must become of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

from vlm_perception.evaluation.chaos.testbed.finding import (
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    SILENCE_S,
    Finding,
    counts,
    mostly,
    within,
)
from vlm_perception.evaluation.chaos.testbed.outcome import overcome
from vlm_perception.evaluation.chaos.testbed.participant import Seen
from vlm_perception.evaluation.chaos.testbed.stage import ENCODER, Stage
from vlm_perception.types import Status

RATE_S = 5.0
SECOND_NS = 1_000_000_000
SIZES = (
    (1280, 720, "bgr8"),
    (320, 240, "mono8"),
    (640, 360, "yuv422_yuy2"),
    (800, 600, "rgb8"),
)


def silence(stage: Stage) -> Finding:
    """Let the camera be silent for a while."""
    stage.camera.stop()
    since = time.monotonic()
    time.sleep(SILENCE_S)
    back = time.monotonic()
    stage.camera.start()
    statuses = {scene.status for scene in stage.participant.between(since, back)}
    name = f"the camera stops for {SILENCE_S:.0f} s"
    return overcome(stage, name, since, back, ok=Status.NO_CAMERA in statuses)


def new_formats(stage: Stage) -> Finding:
    """Change size and encoding in mid-stream."""
    since, slowest = time.monotonic(), 0.0
    for width, height, encoding in SIZES:
        stage.camera.behave(width=width, height=height, encoding=encoding)
        changed = time.monotonic()
        scene = stage.participant.first_scene(_of_size(width, height), changed, 5.0)
        slowest = max(slowest, scene.at_s - changed if scene else float("inf"))
        time.sleep(0.5)
    end = time.monotonic()
    lost, _ = stage.lost(since, end)
    formats = ", ".join(f"{width}x{height} {encoding}" for width, height, encoding in SIZES)
    return Finding(
        "the camera changes size and encoding",
        f"scenes of {formats}",
        None,
        slowest if slowest < float("inf") else None,
        lost,
        slowest <= 1.0,
    )


def rate(stage: Stage, rate_hz: float) -> Finding:
    """Let the camera run at another rate."""
    stage.camera.behave(rate_hz=rate_hz)
    since = time.monotonic()
    time.sleep(max(RATE_S, 8.0 / rate_hz))
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    # The beginning belongs to the change itself: the one gap from which the rate is learned.
    later = stage.participant.between(since + min(2.0, 2.0 / rate_hz), end)
    silent = sum(scene.status in (Status.NO_CAMERA, Status.NO_EMBEDDING) for scene in later)
    return Finding(
        f"the camera's rate becomes {rate_hz:.0f} Hz",
        f"{(of - lost) / (end - since):.1f} images per second became scenes; {counts(later)}",
        None,
        None,
        lost,
        len(later) > 5 and not silent and of > lost,
    )


def disordered(stage: Stage) -> Finding:
    """Send every fifth image with a stamp before that of the one before it."""
    stage.camera.behave(stamp=lambda index, now: now - (50_000_000 if index % 5 == 4 else 0))
    since = time.monotonic()
    time.sleep(SILENCE_S)
    end = time.monotonic()
    stamps = [scene.stamp_ns for scene in stage.participant.between(since, end)]
    backwards = sum(later < before for before, later in pairwise(stamps))
    found = counts(stage.participant.between(since, end))
    lost, of = stage.lost(since, end)
    diagnosed = stage.diagnosed(since, ENCODER)
    return Finding(
        "every fifth image 50 ms late",
        f"late ones skipped, {backwards} scenes out of order; {found}",
        None,
        None,
        lost,
        not backwards and 0.15 * of <= lost <= 0.3 * of and within(diagnosed, NOTICED_WITHIN_S),
        diagnosed,
    )


def duplicated(stage: Stage) -> Finding:
    """Send each image twice."""
    stage.camera.behave(copies=2)
    since = time.monotonic()
    time.sleep(SILENCE_S)
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    later = stage.participant.between(since + 0.5, end)
    return Finding(
        "each image twice",
        f"{counts(later)}",
        None,
        None,
        lost,
        lost <= 0.1 * of and mostly(later, Status.OK),
    )


def stamped(stage: Stage, name: str, stamp: Callable[[int, int], int]) -> Finding:
    """Send images with unusable stamps: the scene must be degraded."""
    stage.camera.behave(stamp=stamp)
    since = time.monotonic()
    time.sleep(SILENCE_S)
    back = time.monotonic()
    stage.camera.behave_well()
    later = stage.participant.between(since + 1.0, back)
    good = any(scene.status is Status.OK for scene in later)
    return overcome(stage, name, since, back, ENCODER, ok=not good)


def clock_jump(stage: Stage, seconds: float) -> Finding:
    """Let /clock jump, and the camera's stamps with it, as when a bag starts again."""
    since = stage.clock.jump(seconds)
    noticed, diagnosed = stage.noticed(since), stage.diagnosed(since)
    well = stage.well_again(since)
    recovered = well.at_s - since if well else None
    end = well.at_s if well else time.monotonic()
    lost, _ = stage.lost(since, end)
    return Finding(
        f"the clock jumps by {seconds:+.0f} s",
        stage.reported(since),
        noticed,
        recovered,
        lost,
        within(recovered, RECOVERED_WITHIN_S) and within(diagnosed, NOTICED_WITHIN_S),
        diagnosed,
    )


def _of_size(width: int, height: int) -> Callable[[Seen], bool]:
    return lambda scene: scene.size == (width, height) and scene.status is Status.OK
