# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the work itself: a call hangs, in the network or where results are handed over."""

from __future__ import annotations

import time
from pathlib import Path

from vlm_perception.engines.steps import LEAST_S
from vlm_perception.evaluation.chaos.testbed.faulty_camera import write_pictures
from vlm_perception.evaluation.chaos.testbed.finding import (
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.participant import wait
from vlm_perception.evaluation.chaos.testbed.stage import CAMERA, FUSION, Stage

CRASHED = 1
"""The exit code of a process whose work does not end."""
ENDED_WITHIN_S = 10.0
HANG_WITHIN_S = LEAST_S + NOTICED_WITHIN_S
"""A hang is one only when a call has outlasted its limit."""


def hung(stage: Stage, node: str) -> Finding:
    """Let a call of a node hang until its process ends, and start it again."""
    flag = stage.folder / f"{node}.hangs"
    stage.kill(node)
    started = stage.start_hangable(node, flag)
    stage.participant.active_since(node, started, LOAD_S)
    stage.settle()
    return _hang(stage, node, flag)


def source_hung(stage: Stage) -> Finding:
    """The same of video_source, as the camera."""
    flag = stage.folder / f"{CAMERA}.hangs"
    stage.camera.leave()
    try:
        stage.show(write_pictures(stage.folder / "pictures of one that hangs"))
        stage.start_hangable(CAMERA, flag)
        stage.settle()
        return _hang(stage, CAMERA, flag)
    finally:
        stage.end(CAMERA)
        stage.camera.join()
        stage.camera.start()


def _hang(stage: Stage, node: str, flag: Path) -> Finding:
    since = time.monotonic()
    flag.touch()
    noticed = stage.silenced(since) if node == FUSION else stage.noticed(since)
    diagnosis = stage.diagnosis(since, node, about="hangs")
    code = wait(lambda: stage.exit_code(node), ENDED_WITHIN_S)
    ended = time.monotonic()
    flag.unlink()
    if code is None:
        stage.kill(node)
    respawned = stage.respawn(node)
    active = (
        stage.first_of(respawned)
        if node == CAMERA
        else stage.participant.active_since(node, respawned, LOAD_S)
    )
    well = stage.well_again(active, LOAD_S) if active is not None else None
    lost, of = stage.lost(since, well.at_s if well else time.monotonic())
    diagnosed = diagnosis.at_s - since if diagnosis else None
    recovered = well.at_s - active if well and active else None
    return Finding(
        f"{node} hangs",
        f"{diagnosis.message if diagnosis else 'no diagnosis'}; exited with {code} after "
        f"{ended - since:.1f} s; {lost} of {of} images without a scene until it had loaded again",
        noticed,
        recovered,
        lost,
        code == CRASHED
        and within(noticed, HANG_WITHIN_S)
        and within(diagnosed, HANG_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )
