# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of what stands around the nodes: the camera's process is killed, the disk is full."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rosbags.highlevel import AnyReader

from vlm_perception.demo.observer import Observer
from vlm_perception.demo.recorder import Recorder
from vlm_perception.demo.topics import DIAGNOSTICS, EMBEDDING, REASONING, SCENE, Topic
from vlm_perception.evaluation.chaos.camera import write_pictures
from vlm_perception.evaluation.chaos.faults import (
    KEPT_SHARE,
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    SILENCE_S,
    told,
    within,
)
from vlm_perception.evaluation.chaos.participant import wait
from vlm_perception.evaluation.chaos.stage import CAMERA, Finding, Stage
from vlm_perception.replay.disk_room import KEPT_FREE_BYTES
from vlm_perception.types import Status

RAW_IMAGE = Topic("image", "sensor_msgs/msg/Image", reliable=False)
RECORDED = (RAW_IMAGE, EMBEDDING, REASONING, SCENE, DIAGNOSTICS)
BAG_BYTES = 24 * 2**20
"""A bag of about this size fills the disk."""


def camera_killed(stage: Stage) -> Finding:
    """Let a process play the camera, kill it, and start another one."""
    pictures = write_pictures(stage.folder / "pictures")
    stage.camera.stop()
    try:
        stage.play(pictures)
        stage.settle()
        since = stage.kill(CAMERA)
        time.sleep(SILENCE_S)
        noticed = stage.noticed(since)
        back = stage.respawn(CAMERA)
        statuses = {scene.status for scene in stage.participant.between(since, back)} - {Status.OK}
        newest_ns = stage.participant.scenes[-1].stamp_ns
        first = stage.participant.first_scene(lambda s: s.stamp_ns > newest_ns, back, LOAD_S)
        well = stage.well_again(first.at_s, LOAD_S) if first else None
        stage.kill(CAMERA)
    finally:
        stage.camera.start()
    recovered = well.at_s - first.at_s if first and well else None
    return Finding(
        "kill -9 the camera's process",
        f"{told(stage, since)}; then {', '.join(sorted(status.name for status in statuses))}",
        noticed,
        recovered,
        0,
        Status.NO_CAMERA in statuses
        and within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
    )


def disk_full(stage: Stage) -> Finding:
    """Record until there is no room left: the bag must be whole, and no node may notice."""
    bag = stage.folder / "recorded" / "scene.mcap"
    recorder = Recorder(bag, RECORDED)
    since = time.monotonic()
    with recorder, Observer(RECORDED, recorder.put) as observer:
        with _room_for(BAG_BYTES):
            wait(lambda: recorder.complaint or None, LOAD_S)
        time.sleep(SILENCE_S)
        observer.check()
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    readable = _messages(bag)
    complaint = recorder.complaint or "the recorder did not notice"
    return Finding(
        "the disk is full while a bag is recorded",
        f"{complaint}; {readable} of {recorder.messages} messages can be read",
        None,
        None,
        lost,
        bool(recorder.complaint)
        and readable == recorder.messages > 0
        and lost <= (1 - KEPT_SHARE) * of,
    )


@contextmanager
def _room_for(bag_bytes: int) -> Iterator[None]:
    """Limit the size of the files that this process writes, as a small disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (KEPT_FREE_BYTES + bag_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _messages(bag: Path) -> int:
    with AnyReader([bag]) as reader:
        return sum(1 for _ in reader.messages())
