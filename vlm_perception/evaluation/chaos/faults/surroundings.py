# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults around the nodes: a camera or a recorder is killed, the disk is full."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from rosbags.highlevel import AnyReader

from vlm_perception.common.disk_space import KEPT_FREE_BYTES
from vlm_perception.demo.run import BAG, RESULTS
from vlm_perception.evaluation.chaos.testbed.faulty_camera import write_pictures
from vlm_perception.evaluation.chaos.testbed.finding import (
    KEPT_SHARE,
    LOAD_S,
    SILENCE_S,
    Finding,
)
from vlm_perception.evaluation.chaos.testbed.outcome import overcome
from vlm_perception.evaluation.chaos.testbed.participant import wait
from vlm_perception.evaluation.chaos.testbed.stage import CAMERA, Stage
from vlm_perception.outputs.folder import UNFINISHED, ResultsFolder
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.recorder import Recorder, keep_recordings
from vlm_perception.rosgraph.topics import DIAGNOSTICS, EMBEDDING, REASONING, SCENE, Topic
from vlm_perception.types import Status

RAW_IMAGE = Topic("image", "sensor_msgs/msg/Image", reliable=False)
RECORDED = (RAW_IMAGE, EMBEDDING, REASONING, SCENE, DIAGNOSTICS)
GROWN_BYTES = 2**20
BAG_BYTES = 24 * 2**20
"""A bag of about this size fills the disk."""


def camera_killed(stage: Stage) -> Finding:
    """Let a process play the camera, kill it, and start another one."""
    stage.show(write_pictures(stage.folder / "pictures"))
    stage.camera.leave()
    try:
        stage.respawn(CAMERA)
        stage.settle()
        since = stage.kill(CAMERA)
        time.sleep(SILENCE_S)
        back = stage.respawn(CAMERA)
        statuses = {scene.status for scene in stage.participant.between(since, back)} - {Status.OK}
        first = stage.first_of(back)
        finding = overcome(
            stage,
            "kill -9 the camera's process",
            since,
            first or back,
            seen=f"then {', '.join(sorted(status.name for status in statuses))}",
            ok=Status.NO_CAMERA in statuses and first is not None,
        )
    finally:
        stage.end(CAMERA)
        stage.camera.join()
        stage.camera.start()
    return finding


def recorder_killed(stage: Stage) -> Finding:
    """Kill a process that records as the demo does: the last whole bag stays, and the broken one.

    What is left of that is kept, and can be read, when the next one begins.
    """
    folder = stage.folder / "killed"
    _record(folder)
    whole = _messages(folder / BAG)
    process = get_context("spawn").Process(target=_record, args=(folder, LOAD_S), daemon=True)
    process.start()
    grown = wait(lambda: _growing(folder / UNFINISHED), LOAD_S)
    since = time.monotonic()
    time.sleep(SILENCE_S)
    process.kill()
    process.join()
    lost, of = stage.lost(since, time.monotonic())
    stayed = _messages(folder / BAG)
    _record(folder)
    broken = [file for file in folder.glob("*.mcap") if file.name != BAG]
    rescued = sum(map(_readable, broken))
    return Finding(
        "kill -9 a process that records",
        f"{stayed} of {whole} messages of the last bag are intact; {rescued} of the interrupted "
        "one can be read, which the next run kept as "
        f"{', '.join(file.name for file in broken) or 'nothing'}",
        None,
        None,
        lost,
        bool(grown) and stayed == whole > 0 and rescued > 0 and lost <= (1 - KEPT_SHARE) * of,
    )


def disk_full(stage: Stage) -> Finding:
    """Record until there is no room left: the bag must be whole, and no node may notice."""
    bag = stage.folder / "recorded" / "scene.mcap"
    recorder = Recorder(bag, RECORDED)
    since = time.monotonic()
    with recorder, Observer(RECORDED, recorder.put) as observer:
        with _room_for(BAG_BYTES):
            wait(lambda: recorder.failure or None, LOAD_S)
        time.sleep(SILENCE_S)
        observer.check()
    end = time.monotonic()
    lost, of = stage.lost(since, end)
    readable = _messages(bag)
    failure = recorder.failure or "the recorder did not notice"
    return Finding(
        "the disk is full while a bag is recorded",
        f"{failure}; {readable} of {recorder.messages} messages can be read",
        None,
        None,
        lost,
        bool(recorder.failure)
        and readable == recorder.messages > 0
        and lost <= (1 - KEPT_SHARE) * of,
    )


def _record(folder: Path, seconds: float = SILENCE_S) -> None:
    """Record the graph's results, and keep what a previously killed run left."""
    with ResultsFolder(folder, "demo", RESULTS) as results:
        if results.left_over:
            keep_recordings(results.work, results.path)
            results.clear()
        recorder = Recorder(results.work / BAG, RECORDED)
        with recorder, Observer(RECORDED, recorder.put):
            time.sleep(seconds)
        results.publish()


def _growing(work: Path) -> bool:
    """Whether something is written there."""
    return any(file.stat().st_size > GROWN_BYTES for file in work.rglob("*.mcap"))


def _readable(file: Path) -> int:
    """Messages that can be read of a bag that may be broken."""
    bag = Bag(file)
    return sum(1 for _ in bag.messages([topic.name for topic in bag.topics]))


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
