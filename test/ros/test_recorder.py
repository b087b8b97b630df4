# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A full disk or a killed program costs a recording no more than it must."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from support.recordings import COMPRESSED, TYPES, image
from support.ros_graph import wait_until

from vlm_perception.common.disk_space import KEPT_FREE_BYTES, DiskFullError
from vlm_perception.replay.recordings.bag import Bag
from vlm_perception.rosgraph import recorder as recorder_module
from vlm_perception.rosgraph.recorder import Recorder
from vlm_perception.rosgraph.topics import IMAGE

IMAGE_BYTES = 300_000
ROOM = 2 * 2**20


@pytest.fixture
def limited() -> Iterator[None]:
    """No file grows beyond a size, as on a small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (KEPT_FREE_BYTES + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def record(bag: Path) -> Recorder:
    """Put images until the recorder complains, and some more."""
    noise = np.random.default_rng(0).integers(0, 256, IMAGE_BYTES, np.uint8).tobytes()
    with Recorder(bag, [IMAGE]) as recorder:
        for index in range(400):
            message = image(index, noise)
            recorder.put(IMAGE, index, bytes(TYPES.serialize_cdr(message, COMPRESSED)))
            if recorder.failure and index % 10 == 9:
                break
            time.sleep(0.002)
    return recorder


def test_a_recording_ends_as_a_whole_bag(limited: None, tmp_path: Path) -> None:
    recorder = record(tmp_path / "scene.mcap")
    assert "disk is full" in recorder.failure
    for bag in (tmp_path / "scene.mcap", tmp_path):
        with AnyReader([bag]) as reader:
            times = [time_ns for _, time_ns, _ in reader.messages()]
        assert times == list(range(recorder.messages))
    assert len(times) * IMAGE_BYTES >= ROOM
    assert {path.name for path in tmp_path.iterdir()} == {"scene.mcap", "metadata.yaml"}


def test_a_recording_that_failed_while_writing_can_be_read(
    limited: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "check_room", lambda _: None)
    recorder = record(tmp_path / "scene.mcap")
    assert "no index" in recorder.failure
    bag = Bag(tmp_path / "scene.mcap")
    read = [each.time_ns for each in bag.messages(["/image/compressed"], 0, 10**6)]
    assert read == list(range(len(read))) and len(read) > 0.9 * recorder.messages


def test_what_came_a_second_ago_can_be_read_before_the_recording_ends(tmp_path: Path) -> None:
    message = bytes(TYPES.serialize_cdr(image(0, b"\xff\xd8 a small one"), COMPRESSED))
    with Recorder(tmp_path / "scene.mcap", [IMAGE]) as recorder:
        (file,) = (tmp_path / ".recording").rglob("*.mcap")
        for time_ns in range(3):
            recorder.put(IMAGE, time_ns, message)

        def readable() -> list[int]:
            if not file.stat().st_size:
                return []
            return [each.time_ns for each in Bag(file).messages(["/image/compressed"])]

        wait_until("the messages", lambda: readable() == [0, 1, 2])


def test_what_lies_where_a_recording_is_made_stays(tmp_path: Path) -> None:
    (tmp_path / ".recording").mkdir()
    (tmp_path / ".recording" / "scene.mcap").write_text("mine")
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "scene.mcap", [IMAGE]).__enter__()
    assert (tmp_path / ".recording" / "scene.mcap").read_text() == "mine"


def test_a_recording_is_not_begun_without_room(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (KEPT_FREE_BYTES - 1, before[1]))
    try:
        with pytest.raises(DiskFullError, match="31 MB are free"):
            Recorder(tmp_path / "scene.mcap", [IMAGE]).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
