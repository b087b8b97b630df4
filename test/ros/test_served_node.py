# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes whose language model is run by a server: a real one, that comes and goes."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.camera import image, picture, stamped
from support.ros_graph import BEST_EFFORT, Graph, wait_until

from vlm_perception.action import Describe
from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer, Manner
from vlm_perception.msg import SceneReasoning, SemanticScene
from vlm_perception.perception.served.endpoint import KEY_VARIABLE
from vlm_perception.srv import Ask

NODE = "language_reasoner"
KEY = "sk-a-secret-of-the-test"
QUESTION = "is there a zebra ahead"
PROMPT = "say what is ahead"


@pytest.fixture
def server() -> BundleServer:
    return BundleServer(ModelBundle.load("roadworld-nano"), Manner(reading_s=0.02))


class Camera:
    """Sends a picture again and again."""

    def __init__(self, graph: Graph) -> None:
        self._publisher = graph.publisher(Image, "image", BEST_EFFORT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        pixels = picture(128, 72)
        while not self._stop.wait(0.033):
            self._publisher.publish(stamped(image(pixels, "rgb8"), time.time_ns()))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def settings(server: BundleServer) -> dict[str, object]:
    return {
        "language": "served",
        "endpoint": server.url,
        "model": MODEL,
        "caption_prompt": json.dumps(PROMPT),
        "served_deadline": 5.0,
        "answer_timeout": 20.0,
        "max_caption_tokens": 8,
        "niceness": 0,
    }


@pytest.fixture
def camera_of(graph: Graph) -> Iterator[list[Camera]]:
    cameras: list[Camera] = []
    yield cameras
    for each in cameras:
        each.close()


@pytest.mark.parametrize("programs", [("vision_encoder", NODE), ("perception",)])
def test_it_analyses_key_frames_and_answers(
    graph: Graph,
    server: BundleServer,
    camera_of: list[Camera],
    programs: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And neither the key nor an image or a prompt gets into a log or a parameter."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    with server:
        processes = [
            graph.start(
                program,
                flags=("--log-level", "debug"),
                **({} if program == "vision_encoder" else settings(server)),
            )
            for program in programs
        ]
        for node in ("vision_encoder", NODE):
            graph.wait_active(node)
        camera_of.append(Camera(graph))
        said = reasonings.wait(lambda message: message.is_keyframe)
        assert said.caption and said.attributes
        assert all(len(each.probabilities) in (0, len(each.choices)) for each in said.attributes)
        answer = graph.call(Ask, f"/{NODE}/ask", Ask.Request(question=QUESTION))
        assert answer.success and answer.answer, answer.message
        if len(programs) > 1:
            overtake(graph, server, reasonings)
        values = graph.values(NODE)
        assert values["circuit"] == "closed" and values["engine"].startswith(MODEL)
        assert all(each["Authorization"] == f"Bearer {KEY}" for each in server.headers)
        names = graph.call(ListParameters, f"/{NODE}/list_parameters", ListParameters.Request())
        request = GetParameters.Request(names=names.result.names)
        dumped = str(graph.call(GetParameters, f"/{NODE}/get_parameters", request))
        for process in processes:
            process.stop()
    logs = dumped + "".join(process.log() for process in processes)
    pictures = {part["image_url"]["url"][-40:] for part in sent_parts(server, "image_url")}
    assert pictures
    for secret in (KEY, QUESTION, *pictures):
        assert secret not in logs


def overtake(graph: Graph, server: BundleServer, reasonings: Any) -> None:
    """A new instruction ends an analysis that has just begun, and is followed in the next one."""
    instructions = graph.publisher(String, "instruction")
    texts = map("look for cone {}".format, itertools.count())
    server.manner = Manner(piece_s=0.1)

    def ended() -> bool:
        for _ in range(3):  # Then the scene is known to be at rest, and how long this takes.
            reasonings.clear()
            reasonings.wait(lambda message: message.is_keyframe)
        wait_until("the next key frame", lambda: server.at_work)
        instructions.publish(String(data=next(texts)))
        reasonings.wait(lambda message: message.instruction)
        return int(graph.values(NODE)["overtaken"]) > 0

    wait_until("an analysis is overtaken", ended)
    server.manner = Manner()


def sent_parts(server: BundleServer, kind: str) -> Iterator[dict[str, dict[str, str]]]:
    for body in server.bodies:
        for part in body["messages"][-1]["content"]:
            if part["type"] == kind:
                yield part


def test_a_server_that_dies_is_told_and_scenes_go_on(
    graph: Graph, server: BundleServer, camera_of: list[Camera]
) -> None:
    with server:
        pass  # It has a port, on which nothing listens now.
    node = graph.start(NODE, **settings(server))
    graph.start("vision_encoder")
    graph.start("scene_fusion")
    for each in ("vision_encoder", NODE, "scene_fusion"):
        graph.wait_active(each)
    scenes, reasonings = (
        graph.listen(SemanticScene, "scene"),
        graph.listen(SceneReasoning, "reasoning", 10),
    )
    camera_of.append(Camera(graph))
    assert server.url in graph.wait_error(NODE)

    def refused() -> bool:
        answer = graph.call(Ask, f"/{NODE}/ask", Ask.Request(question=QUESTION))
        assert not answer.success
        return server.url in answer.message

    wait_until("a frame, to be refused with the server's name", refused)
    scenes.wait()
    for _ in range(2):
        with server:
            reasonings.clear()
            reasonings.wait(lambda message: message.is_keyframe)
            wait_until("it can be asked again", lambda: can_be_asked(graph))
        assert server.url in graph.wait_error(NODE)
        scenes.clear()
        scenes.wait()
    assert node.alive()
    node.stop()


def can_be_asked(graph: Graph) -> bool:
    """It may still warn: the student knows no letters."""
    status = graph.status(NODE)
    return status is not None and bool(status.level != DiagnosticStatus.ERROR)


def test_deactivation_does_not_wait_for_the_server(
    graph: Graph, server: BundleServer, camera_of: list[Camera]
) -> None:
    with server:
        node = graph.start(NODE, **{**settings(server), "served_deadline": 60.0})
        graph.start("vision_encoder")
        graph.wait_active(NODE)
        server.manner = Manner(reading_s=8.0)
        camera_of.append(Camera(graph))
        asked = len(server.bodies)
        wait_until("it is asked about a frame", lambda: len(server.bodies) > asked)
        assert graph.transition(NODE, "deactivate"), node.log()
        assert graph.transition(NODE, "activate")
        node.stop()


def test_a_description_is_cancelled_though_the_server_says_nothing(
    graph: Graph, server: BundleServer, camera_of: list[Camera]
) -> None:
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    server.manner = Manner(log_probabilities=False)  # So that a key frame takes one slot.
    with server:
        limits = {"served_deadline": 60.0, "slots": 2}
        node = graph.start(NODE, **{**settings(server), **limits})
        graph.start("vision_encoder")
        graph.wait_active(NODE)
        camera_of.append(Camera(graph))
        reasonings.wait(lambda message: message.is_keyframe)
        server.manner = Manner(log_probabilities=False, piece_s=30.0)
        wait_until("a key frame waits", lambda: server.at_work == 1)
        describer: Any = ActionClient(graph.node, Describe, f"/{NODE}/describe")
        assert describer.wait_for_server(20.0)
        goal = answer_of(describer.send_goal_async(Describe.Goal()))
        wait_until("the description waits", lambda: server.at_work == 2)
        answer_of(goal.cancel_goal_async())
        done = answer_of(goal.get_result_async())
        assert done.status == GoalStatus.STATUS_CANCELED
        assert "cancelled" in done.result.message and not done.result.success
        node.stop()


def answer_of(future: Any) -> Any:
    wait_until("an answer", future.done)
    return future.result()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"endpoint": "http://192.0.2.7:8000/v1"}, "allow_remote:=true"),
        ({"endpoint": "https://me:secret@localhost/v1"}, "user name or password"),
        ({"model": "''"}, "set model to its name"),
        ({"key_file": "/dev/null"}, "key_file /dev/null"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(
    graph: Graph, server: BundleServer, changes: dict[str, str], sentence: str
) -> None:
    endpoint = {"endpoint": "http://127.0.0.1:9/v1"}
    node = graph.start(NODE, **{**settings(server), **endpoint, **changes})
    said = graph.wait_error(NODE)
    assert sentence in said and "secret" not in said + node.log()
    node.stop()
