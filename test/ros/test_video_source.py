# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The video source as a process: what it plays, how fast, with what stamps, and how it ends."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, Image
from support.camera import picture
from support.ros_graph import BEST_EFFORT, Graph, Inbox, wait_until
from support.streams import MjpegServer
from support.videos import cut

WIDTH, HEIGHT, FRAMES = 320, 180, 30


def make_video(path: Path, codec: str) -> Path:
    """A video of which each image is brighter than the one before."""
    size = (WIDTH, HEIGHT)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 30.0, size)
    assert writer.isOpened()
    for index in range(FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), 8 * index, np.uint8))
    writer.release()
    return path


def stamps(inbox: Inbox) -> list[float]:
    return [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in inbox.all()]


def play(graph: Graph, inbox: Inbox, **parameters: Any) -> list[Any]:
    """Play to the end and return the messages."""
    source = graph.start("video_source", wait_for_subscriber_s=10.0, **parameters)
    assert source.wait() == 0, source.log()
    time.sleep(0.2)
    return inbox.all()


def test_a_file_is_played_at_its_rate_with_honest_stamps(graph: Graph, tmp_path: Path) -> None:
    inbox = graph.listen(Image, "image")
    began = time.time()
    video = make_video(tmp_path / "a.avi", "MJPG")
    images = play(graph, inbox, source=video, rate_hz=20, frame_id="front")
    assert FRAMES - 2 <= len(images) <= FRAMES
    first = images[0]
    assert (first.width, first.height, first.encoding) == (WIDTH, HEIGHT, "bgr8")
    assert first.header.frame_id == "front" and len(first.data) == first.step * HEIGHT
    levels = [message.data[0] for message in images]
    assert levels == sorted(levels) and levels[-1] > 220
    times = stamps(inbox)
    assert began < times[0] and times[-1] < time.time()
    assert np.median(np.diff(times)) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("codec", ["MJPG", "mp4v"])
def test_compressed_and_looping(graph: Graph, tmp_path: Path, codec: str) -> None:
    inbox = graph.listen(CompressedImage, "image/compressed")
    video = make_video(tmp_path / ("a.avi" if codec == "MJPG" else "a.mp4"), codec)
    images = play(graph, inbox, source=video, transport="compressed", loop=True, duration_s=2.0)
    assert 56 <= len(images) <= 60
    levels = [
        int(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR).mean())
        for message in images
    ]
    assert sum(later < earlier for earlier, later in itertools.pairwise(levels)) == 1
    assert stamps(inbox) == sorted(stamps(inbox))


def test_a_folder_of_images(graph: Graph, tmp_path: Path) -> None:
    for index in range(10):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), picture(64 + index, 48, index))
    inbox = graph.listen(Image, "image")
    images = play(graph, inbox, source=tmp_path, rate_hz=10.0)
    widths = [message.width for message in images]
    assert widths == sorted(widths) and len(widths) >= 9


def test_what_cannot_be_played_ends_with_a_sentence(graph: Graph, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        tmp_path / "missing.mp4": "does not exist",
        text: "is not a video but text",
        empty: "contains no images",
        99: "/dev/video99 has no camera",
    }
    for source, sentence in cases.items():
        process = graph.start("video_source", source=source)
        assert process.wait() == 2
        lines = [line for line in process.log().splitlines() if line.strip()]
        assert len(lines) == 1 and sentence in lines[0], process.log()


def test_a_damaged_image_in_the_midst(graph: Graph, tmp_path: Path) -> None:
    for index in (0, 2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(64, 48))
    (tmp_path / "1.png").write_bytes(b"no image")
    inbox = graph.listen(Image, "image", 20)  # reliable, as rviz asks for it
    process = graph.start("video_source", source=tmp_path, rate_hz=5.0, wait_for_subscriber_s=10.0)
    assert process.wait() == 0
    assert "1.png cannot be used" in process.log() and "Traceback" not in process.log()
    assert "played 2 images; 1 could not be used or are missing" in process.log()
    assert len(inbox.all()) == 2


def test_a_video_that_was_cut_off_is_played_and_named(graph: Graph, tmp_path: Path) -> None:
    video = cut(make_video(tmp_path / "a.avi", "MJPG"), 0.6)
    process = graph.start("video_source", source=video, rate_hz=60.0)
    assert process.wait() == 0
    assert "a.avi should last 1.0 s, but it ends after" in process.log()


def test_a_stream_that_is_lost_is_opened_again(graph: Graph) -> None:
    inbox = graph.listen(CompressedImage, "image/compressed", BEST_EFFORT)
    states = graph.listen(DiagnosticArray, "/diagnostics")
    with MjpegServer() as server:
        process = graph.start("video_source", source=server.url, transport="compressed")
        inbox.wait()
        server.break_off()
        wait_until("a warning", lambda: "delivers no image" in process.log())
        before = len(inbox.all())
        wait_until("images again", lambda: len(inbox.all()) > before + 3)
        said = [status for array in states.all() for status in array.status]
        assert any("it is reopened" in status.message for status in said)
        process.stop(signal.SIGINT)
    assert stamps(inbox) == sorted(stamps(inbox))


def test_a_loop_ends_with_its_images(graph: Graph, tmp_path: Path) -> None:
    file = tmp_path / "0.png"
    cv2.imwrite(str(file), picture(64, 48))
    inbox = graph.listen(Image, "image", BEST_EFFORT)
    process = graph.start("video_source", source=tmp_path, loop=True)
    inbox.wait()
    file.unlink()
    assert process.wait() == 2 and "Traceback" not in process.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(graph: Graph, tmp_path: Path, number: signal.Signals) -> None:
    inbox = graph.listen(Image, "image", BEST_EFFORT)
    source = graph.start("video_source", source=make_video(tmp_path / "a.avi", "MJPG"), loop=True)
    inbox.wait()
    source.stop(number)


def test_it_ends_while_the_road_world_is_rendered(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "vlm_perception"
    source = graph.start("video_source", source="roadworld", width=320, height=180, seed=1)
    wait_until("progress", lambda: "rendering the road world" in source.log())
    assert "0 of 600 images" in source.log() and [*cache.glob(".*.avi")]
    source.stop(signal.SIGINT)
    assert not [*cache.iterdir()], "half a clip was left"
