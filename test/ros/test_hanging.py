# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Threads of real nodes hang: it is told at once, and ends by itself or with the process."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from support.camera import image, picture, stamped
from support.edited_bundle import edited
from support.embedding_camera import EmbeddingCamera
from support.ros_graph import BEST_EFFORT, Graph, NodeProcess, wait_until

from vlm_perception.action import Describe
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.engines.steps import Pace, Work, step
from vlm_perception.evaluation.chaos.testbed import hangable
from vlm_perception.nodes.process.watchdog import Watchdog
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.srv import Ask, SetVocabulary


class Hangs:
    """Starts nodes in which one function hangs while `file` exists."""

    def __init__(self, graph: Graph, file: Path) -> None:
        self._graph, self.file = graph, file

    def start(self, place: str, node: str, name: str, **parameters: object) -> NodeProcess:
        runner = [hangable.__name__, str(self.file), place]
        return self._graph.start(node, f"__node:={name}", runner=runner, **parameters)

    def start_engine(self, node: str, name: str, **parameters: object) -> NodeProcess:
        """Start a node whose network can hang."""
        settings = {"bundle": "roadworld-nano", "engine": "onnxruntime", **parameters}
        return self.start(hangable.ENGINE, node, name, **settings)


@pytest.fixture
def hangs(graph: Graph, tmp_path: Path) -> Hangs:
    return Hangs(graph, tmp_path / "hang")


@contextmanager
def camera(graph: Graph) -> Iterator[None]:
    publisher = graph.publisher(Image, "image", BEST_EFFORT)
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.05):
            publisher.publish(stamped(image(picture(64, 36), "rgb8"), time.time_ns()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def error_of(graph: Graph, name: str, worker: str) -> str:
    """The sentence with which the node's diagnostics, and its log, tell of the hang."""

    def told() -> str:
        status = graph.status(name)
        text = str(status.message) if status is not None else ""
        return text if text.startswith(f"{worker} hangs: ") else ""

    return str(wait_until(f"{name} to tell of {worker}", told))


def test_a_hang_is_told_and_what_does_not_end_is_ended(graph: Graph, hangs: Hangs) -> None:
    node = hangs.start_engine("vision_encoder", "encoder")
    graph.wait_active("encoder")
    with camera(graph):
        wait_until("embeddings", lambda: float(graph.values("encoder")["rate_out_hz"]) > 0)
        hangs.file.touch()
        sentence = error_of(graph, "encoder", "encode")
        assert "vision.onnx in onnxruntime" in sentence and "1 s" in sentence
        assert graph.values("encoder")["bad_messages.hangs"] == "1"
        hangs.file.unlink()
        wait_until("the end of the hang", lambda: graph.status("encoder").level < b"\x02")
        hangs.file.touch()
        assert error_of(graph, "encoder", "encode") == sentence
        with pytest.raises(AssertionError, match="in vain"):
            graph.transition("encoder", "deactivate", timeout=3.0)
        assert node.wait() == 1
    log = node.log()
    assert re.search(rf"\[ERROR\] .*: {re.escape(sentence)}", log)
    assert f"code 1: {sentence}" in log and "in hangable" in log


def test_whoever_waits_for_a_call_that_hangs_is_told_of_its_end(
    graph: Graph, hangs: Hangs, tmp_path: Path
) -> None:
    shipped = ModelBundle.load("roadworld-nano")
    # With the embeddings of its labels, it would embed others in a process of their own.
    copied = shutil.copytree(shipped.path, tmp_path / "without")
    without = edited(copied, lambda content: content.pop("label_embeddings"))
    language = hangs.start_engine("language_reasoner", "language", niceness=0)
    vision = hangs.start_engine("vision_encoder", "vision", bundle=str(without.path))
    graph.wait_active("language")
    graph.wait_active("vision")
    eyes = EmbeddingCamera(graph, shipped, name="")
    describer = ActionClient(graph.node, Describe, "/language/describe")

    def ask() -> Any:
        return graph.call(
            Ask,
            "/language/ask",
            Ask.Request(question="is it", choices=["wet", "dry"], timeout=60.0),
        )

    def set_vocabulary() -> Any:
        request = SetVocabulary.Request(labels=["car", "boat"])
        return graph.call(SetVocabulary, "/vision/set_vocabulary", request)

    def describe() -> Any:
        goal = describer.send_goal_async(Describe.Goal())
        wait_until("a goal's acceptance", goal.done)
        result = goal.result().get_result_async()
        wait_until("a result", result.done)
        return result.result().result

    try:
        wait_until("an answer", lambda: ask().success)
        assert describer.wait_for_server(20.0)
        hangs.file.write_text(hangable.OBEYS)
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(call) for call in (ask, set_vocabulary, describe)]
            asked, vocabulary, described = (each.result() for each in waiting)
        hangs.file.unlink()
        assert not (asked.success or vocabulary.accepted or described.success)
        for answer in (asked, vocabulary, described):
            assert "took more than 1 s and was aborted" in answer.message
        wait_until("an answer", lambda: ask().success)
        assert set_vocabulary().accepted and describe().tokens > 0
    finally:
        eyes.close()
    language.stop()
    vision.stop()
    assert "set_vocabulary hangs: a run of text.onnx" in vision.log()


def test_every_worker_is_watched(graph: Graph, hangs: Hangs, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), picture(64, 36))
    source = {"source": str(tmp_path), "loop": True, "transport": "raw"}
    read = "vlm_perception.messages.tables:EMBEDDING.read"
    find = "vlm_perception.nodes.io.images.camera_monitor:CameraTap.image"
    decode = "vlm_perception.media.media:Picture.decoded"
    make = "sensor_msgs.msg._image:Image.__init__"
    nodes = {
        "reason": hangs.start(read, "language_reasoner", "reason"),
        "fuse": hangs.start(read, "scene_fusion", "fuse"),
        "paint": hangs.start(find, "scene_fusion", "paint"),
        "prepare": hangs.start(decode, "video_source", "prepare", **source),
        "publish": hangs.start(make, "video_source", "publish", **source),
    }
    graph.listen(Image, "scene/overlay")
    for name in ("reason", "fuse", "paint"):
        graph.wait_active(name)
    hangs.file.touch()
    eyes = EmbeddingCamera(graph, ModelBundle.load("roadworld-nano"), name="")
    try:
        for name in nodes:
            error_of(graph, name, worker=name)
        assert [node.wait() for node in nodes.values()] == [1] * len(nodes)
    finally:
        eyes.close()


STOPPED = """
import sys
from vlm_perception.engines.steps import step
from vlm_perception.nodes.process.watchdog import Watchdog

told = []
watchdog = Watchdog(lambda *telling: told.append(telling))
with watchdog.watch("work"), step("reading", 0.5):
    print("begun", flush=True)
    sys.stdin.readline()
print("told" if told else "quiet", flush=True)
"""


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("go on\n", timeout=30.0)
    assert said == "quiet\n"


def test_what_is_in_hand_when_the_process_ends_is_ended() -> None:
    begun, told = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def handle(_: int) -> None:
        with step("a long run", 60.0, told.set):
            begun.set()
            told.wait()

    watchdog = Watchdog(lambda *_: None)
    worker = Worker("work", handle, errors.append, watchdog)
    worker.start()
    worker.mailbox.put(1)
    assert begun.wait(10.0)
    assert not worker.stop(0.0)
    assert worker.stop(10.0, at_once=True)
    watchdog.close()
    assert not errors


@pytest.mark.parametrize(("warm_up_s", "limit_s"), [(0.01, 1.0), (0.3, 1.5)])
def test_a_limit_follows_the_time_at_warm_up(warm_up_s: float, limit_s: float) -> None:
    pace = Pace("a run")
    with pace.call():
        time.sleep(warm_up_s)
    with Work("work") as work, step("an input"):
        around = work.step
        with pace.call():
            assert work.step is not None and work.step.what == "a run"
            assert work.step.limit_s >= limit_s
        assert around is not None and work.step is not None
        assert (work.step.what, work.step.limit_s) == ("an input", 1.0)
        assert work.step.began_s > around.began_s
    assert work.step is None
