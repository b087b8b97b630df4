# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of processes, of the camera and of the clock, each with what must become of it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from vlm_perception.evaluation.chaos.participant import Seen, wait
from vlm_perception.evaluation.chaos.stage import FUSION, NODES, REASONER, Finding, Stage
from vlm_perception.nodes.shared_memory import SHARED_MEMORY, leftovers
from vlm_perception.types import Status

NOTICED_WITHIN_S = 0.5
RECOVERED_WITHIN_S = 2.0
HANG_S = 10.0
SILENCE_S = 3.0
RATE_S = 5.0
LOAD_S = 60.0
"""A killed node may take so long to load again."""
SEGMENT_BYTES = 36 * 2**20
"""What a process holds in shared memory with the profile in config/, generously."""
KEPT_SHARE = 0.97
"""Share of the images that must become scenes where no node is disturbed."""
SECOND_NS = 1_000_000_000
SIZES = (
    (1280, 720, "bgr8"),
    (320, 240, "mono8"),
    (640, 360, "yuv422_yuy2"),
    (800, 600, "rgb8"),
)


def killed(stage: Stage, node: str) -> Finding:
    """Kill a node and start it again at once, as a launch file does."""
    since = stage.kill(node)
    respawned = stage.respawn(node)
    noticed = _liveliness_lost(stage, since) if node == FUSION else stage.noticed(since)
    active = stage.participant.active_since(node, respawned, LOAD_S)
    well = stage.well_again(active, LOAD_S) if active is not None else None
    end = well.at_s if well else time.monotonic()
    lost, of = stage.lost(since, end)
    recovered = end - active if well and active else None
    seen = "liveliness of the scene lost" if node == FUSION else told(stage, since)
    return Finding(
        f"kill -9 {node}",
        f"{seen}; {lost} of {of} images without a scene until it was loaded again",
        noticed,
        recovered,
        lost,
        within(noticed, NOTICED_WITHIN_S) and within(recovered, RECOVERED_WITHIN_S),
    )


def many_kills(stage: Stage, kills: int) -> Finding:
    """Kill one node after the other and see what of it is left in shared memory."""
    before = _ports()
    for number in range(kills):
        node = NODES[number % len(NODES)]
        stage.kill(node)
        respawned = stage.respawn(node)
        if stage.participant.active_since(node, respawned, LOAD_S) is None:
            report = stage.participant.newest_report(node)
            why = report.message if report else "it reports nothing"
            seen = f"{node} was not active again after kill {number + 1}: {why}"
            return Finding(f"{kills} kills in a row", seen, None, None, 0, ok=False)
    began = time.monotonic()
    well = stage.well_again(began, LOAD_S)
    left = _held(leftovers())
    ports = len(_ports()) - len(before)
    last = stage.participant.scenes[-1]
    return Finding(
        f"{kills} kills in a row",
        f"{left / 2**20:.1f} MiB of killed processes left, {ports} more ports; in the end "
        f"{last.status.name} {last.reason}".strip(),
        None,
        well.at_s - began if well else None,
        0,
        # The last one killed may still be there, and each node has two ports at most.
        well is not None and left <= SEGMENT_BYTES and ports <= 2 * len(NODES),
    )


def hang(stage: Stage, seconds: float = HANG_S) -> Finding:
    """Stop the language node for a while: the fast path must not notice."""
    since = stage.kill(REASONER, signal.SIGSTOP)
    time.sleep(seconds)
    woken = stage.kill(REASONER, signal.SIGCONT)
    noticed = stage.noticed(since)
    well = stage.well_again(woken, LOAD_S)
    lost, of = stage.lost(since, woken)
    recovered = well.at_s - woken if well else None
    rate = (of - lost) / (woken - since)
    return Finding(
        f"language_reasoner hangs for {seconds:.0f} s",
        f"{rate:.1f} scenes a second meanwhile; {told(stage, since)}",
        noticed,
        recovered,
        lost,
        within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S)
        and lost <= (1 - KEPT_SHARE) * of,
    )


def silence(stage: Stage) -> Finding:
    """Let the camera be silent for a while."""
    stage.camera.stop()
    since = time.monotonic()
    time.sleep(SILENCE_S)
    back = time.monotonic()
    stage.camera.start()
    noticed = stage.noticed(since)
    well = stage.well_again(back)
    recovered = well.at_s - back if well else None
    statuses = {scene.status for scene in stage.participant.between(since, back)}
    return Finding(
        f"the camera stops for {SILENCE_S:.0f} s",
        told(stage, since),
        noticed,
        recovered,
        0,
        Status.NO_CAMERA in statuses
        and within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
    )


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
        f"{(of - lost) / (end - since):.1f} images a second became scenes; {_counts(later)}",
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
    lost, of = stage.lost(since, end)
    return Finding(
        "every fifth image 50 ms late",
        f"late ones skipped, {backwards} scenes out of order; {_counts_between(stage, since, end)}",
        None,
        None,
        lost,
        not backwards and 0.15 * of <= lost <= 0.3 * of,
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
        f"{_counts(later)}",
        None,
        None,
        lost,
        lost <= 0.1 * of and _mostly(later, Status.OK),
    )


def stamped(stage: Stage, name: str, stamp: Callable[[int, int], int]) -> Finding:
    """Send images whose stamps tell nothing: the scene must say that it is degraded."""
    stage.camera.behave(stamp=stamp)
    since = time.monotonic()
    time.sleep(SILENCE_S)
    back = time.monotonic()
    stage.camera.behave_well()
    noticed = stage.noticed(since)
    well = stage.well_again(back)
    recovered = well.at_s - back if well else None
    later = stage.participant.between(since + 1.0, back)
    return Finding(
        name,
        told(stage, since),
        noticed,
        recovered,
        0,
        all(scene.status is not Status.OK for scene in later)
        and within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
    )


def clock_jump(stage: Stage, seconds: float) -> Finding:
    """Let /clock jump, and the camera's stamps with it, as when a bag starts again."""
    since = stage.clock.jump(seconds)
    noticed = stage.noticed(since)
    well = stage.well_again(since)
    recovered = well.at_s - since if well else None
    end = well.at_s if well else time.monotonic()
    lost, _ = stage.lost(since, end)
    return Finding(
        f"the clock jumps by {seconds:+.0f} s",
        told(stage, since),
        noticed,
        recovered,
        lost,
        within(recovered, RECOVERED_WITHIN_S),
    )


def _liveliness_lost(stage: Stage, since: float) -> float | None:
    def lost() -> float | None:
        return next((at for at in list(stage.participant.silenced) if at > since), None)

    at = wait(lost, 5.0)
    return at - since if at else None


def _of_size(width: int, height: int) -> Callable[[Seen], bool]:
    return lambda scene: scene.size == (width, height) and scene.status is Status.OK


def told(stage: Stage, since: float) -> str:
    """The status and reason of the first scene that is not OK."""
    bad = next((s for s in stage.participant.scenes if s.at_s > since and s.status), None)
    return f"{bad.status.name}: {bad.reason}" if bad else "always OK"


def _counts_between(stage: Stage, start: float, end: float) -> str:
    return _counts(stage.participant.between(start, end))


def _counts(scenes: list[Seen]) -> str:
    counts = Counter(scene.status.name for scene in scenes)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no scene"


def _mostly(scenes: list[Seen], status: Status) -> bool:
    return sum(scene.status is status for scene in scenes) >= 0.95 * max(1, len(scenes))


def within(seconds: float | None, limit: float) -> bool:
    """Whether something happened, and in time."""
    return seconds is not None and seconds <= limit


def _held(files: Iterable[Path]) -> int:
    """Bytes that files take."""
    held = 0
    for file in files:
        try:
            held += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return held


def _ports() -> list[Path]:
    """The ports of this graph; a domain has 250 of them (RTPS 2.2, 9.6.1.1)."""
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
    files = (file for number in range(first, first + 250) for file in _of_port(number))
    return [file for file in files if file.exists()]


def _of_port(number: int) -> tuple[Path, ...]:
    return tuple(SHARED_MEMORY / f"{name}_port{number}" for name in ("fastdds", "fastrtps"))
