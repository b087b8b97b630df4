# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of processes: what is killed, again and again, or stopped for a while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from vlm_perception.common.fastdds_shared_memory import SHARED_MEMORY, leftovers
from vlm_perception.evaluation.chaos.testbed.finding import (
    KEPT_SHARE,
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.outcome import overcome
from vlm_perception.evaluation.chaos.testbed.stage import FUSION, NODES, REASONER, Stage

STOPPED_S = 10.0
SEGMENT_BYTES = 36 * 2**20
"""What a process holds in shared memory with the profile in config/, generously."""


def killed(stage: Stage, node: str) -> Finding:
    """Kill a node and start it again at once, as a launch file does."""
    since = stage.kill(node)
    respawned = stage.respawn(node)
    noticed = stage.silenced(since) if node == FUSION else stage.noticed(since)
    active = stage.participant.active_since(node, respawned, LOAD_S)
    well = stage.well_again(active, LOAD_S) if active is not None else None
    end = well.at_s if well else time.monotonic()
    lost, of = stage.lost(since, end)
    recovered = end - active if well and active else None
    seen = "liveliness of the scene lost" if node == FUSION else stage.reported(since)
    # No node depends on scene_fusion, so only the lease and missing reports reveal its end.
    diagnosed = None if node == FUSION else stage.diagnosed(since, FUSION)
    return Finding(
        f"kill -9 {node}",
        f"{seen}; {lost} of {of} images without a scene until it had loaded again",
        noticed,
        recovered,
        lost,
        within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S)
        and (node == FUSION or within(diagnosed, NOTICED_WITHIN_S)),
        diagnosed,
    )


def many_kills(stage: Stage, kills: int) -> Finding:
    """Kill one node after the other and see what of it is left in shared memory."""
    before, since = _ports(), time.monotonic()
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
    diagnosed = stage.diagnosed(since, FUSION)
    return Finding(
        f"{kills} kills in a row",
        f"{left / 2**20:.1f} MiB of killed processes left, {ports} more ports; at the end "
        f"{last.status.name} {last.reason}".strip(),
        None,
        well.at_s - began if well else None,
        0,
        # The last one killed may still be there, and each node has two ports at most.
        well is not None
        and within(diagnosed, NOTICED_WITHIN_S)
        and left <= SEGMENT_BYTES
        and ports <= 2 * len(NODES),
        diagnosed,
    )


def stopped(stage: Stage, seconds: float = STOPPED_S) -> Finding:
    """Stop the language node for a while with a signal: the fast path must not notice."""
    since = stage.kill(REASONER, signal.SIGSTOP)
    time.sleep(seconds)
    woken = stage.kill(REASONER, signal.SIGCONT)
    lost, of = stage.lost(since, woken)
    return overcome(
        stage,
        f"language_reasoner is stopped for {seconds:.0f} s",
        since,
        woken,
        FUSION,
        seen=f"{(of - lost) / (woken - since):.1f} scenes per second meanwhile",
        lost=lost,
        ok=lost <= (1 - KEPT_SHARE) * of,
    )


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
