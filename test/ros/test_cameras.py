# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras and one language node: whose turn it is, what is a camera's own, two over DDS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image
from std_msgs.msg import String
from support.camera import image, picture, stamped
from support.embedding_camera import EmbeddingCamera
from support.ros_graph import BEST_EFFORT, TIMEOUT_S, Graph, wait_until

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.msg import SceneReasoning, SemanticScene
from vlm_perception.nodes.base.camera_names import check_camera_names
from vlm_perception.nodes.process.worker import Mailbox
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.srv import Ask
from vlm_perception.types import Embedding, Frame

TAKE = ""
NODE = "language_reasoner"


@given(st.lists(st.sampled_from(["a", "b", "c", TAKE]), max_size=60))
def test_who_waits_is_served_before_anybody_twice(steps: Sequence[str]) -> None:
    mailbox: Mailbox[tuple[str, int]] = Mailbox()
    newest: dict[str, int] = {}
    passed: dict[str, list[str]] = {}
    dropped = 0
    for count, sender in enumerate(steps):
        if sender != TAKE:
            dropped += sender in newest
            newest[sender] = count
            passed.setdefault(sender, [])
            mailbox.put((sender, count), sender)
        elif newest:
            taken = mailbox.take()
            assert taken is not None
            assert newest.pop(taken[0]) == taken[1], "not the newest of its sender"
            assert len(set(passed[taken[0]])) == len(passed.pop(taken[0])), "somebody was twice"
            for waiting in passed.values():
                waiting.append(taken[0])
    assert mailbox.dropped == dropped == sum(map(mailbox.dropped_of, "abc"))


def test_what_is_known_of_a_camera_is_its_own(siglip_bundle: ModelBundle) -> None:
    settings = ReasonerSettings(max_caption_tokens=4, max_keyframe_age=0.5)
    streams: list[list[Embedding]] = []
    for name in ("front", "rear"):
        encoder = VisionEncoder(siglip_bundle, run_id=name)
        pixels = [picture(64, 36, seed=len(name) + index // 4) for index in range(12)]
        frames = [Frame(each, (i + 1) * 10**8, name) for i, each in enumerate(pixels)]
        streams.append([encoder.encode(frame, i) for i, frame in enumerate(frames)])
    alone = [Reasoner(LanguageService(siglip_bundle, settings)) for _ in streams]
    service = LanguageService(siglip_bundle, settings)
    shared = [Reasoner(service) for _ in streams]
    for reasoners in (alone, shared):
        reasoners[1].set_instruction("a car")
    triggers = set()
    for pair in zip(*streams, strict=True):
        for embedding, one, other in zip(pair, alone, shared, strict=True):
            expected, got = one.reason(embedding), other.reason(embedding)
            assert replace(got, stages={}) == replace(expected, stages={})
            triggers.add((got.instruction_version, got.trigger))
    assert {(0, "first"), (1, "first"), (0, "none"), (1, "none")} <= triggers


@pytest.mark.parametrize("names", [[""], ["front "], ["/front"], ["a/"], ["1st"], ["a", "a"]])
def test_names_that_are_refused(names: list[str]) -> None:
    with pytest.raises(VlmPerceptionError, match="give"):
        check_camera_names(names)
    check_camera_names(["front", "left/near_2"])


def test_two_cameras_in_one_process(graph: Graph, siglip_bundle: ModelBundle) -> None:
    graph.start("perception", "__ns:=/robot", bundle=siglip_bundle.path, cameras="['front','rear']")
    names = ("front", "rear")
    scenes = {name: graph.listen(SemanticScene, f"/robot/{name}/scene", 10) for name in names}
    for name in names:
        graph.wait_active(f"robot/{name}/scene_fusion")
        graph.wait_active(f"robot/{name}/vision_encoder")
    graph.wait_active(f"robot/{NODE}")
    cameras = {name: graph.publisher(Image, f"/robot/{name}/image", BEST_EFFORT) for name in names}

    def seen() -> bool:
        for name, publisher in cameras.items():
            message = image(picture(64, 36, seed=len(name)), "rgb8")
            publisher.publish(stamped(message, time.time_ns(), frame_id=name))
        time.sleep(0.03)
        return all(
            any(scene.status == SemanticScene.STATUS_OK for scene in inbox.all())
            for inbox in scenes.values()
        )

    wait_until("a good scene of each camera", seen)
    for name, inbox in scenes.items():
        good = inbox.wait(lambda scene: scene.status == SemanticScene.STATUS_OK)
        assert good.header.frame_id == name and good.caption
    assert len({scene.run_id for inbox in scenes.values() for scene in inbox.all()}) == 2


def test_one_language_node_serves_two_cameras(graph: Graph, siglip_bundle: ModelBundle) -> None:
    refused = graph.start(NODE, bundle=siglip_bundle.path, cameras="['']")
    process = graph.start(
        NODE,
        bundle=siglip_bundle.path,
        cameras="['front','rear']",
        rate_hz=20.0,
        niceness=0,
        input_timeout=2.0,
        max_keyframe_age=3600.0,
    )
    names = ("front", "rear")
    inboxes = {name: graph.listen(SceneReasoning, f"{name}/reasoning", 10) for name in names}
    graph.wait_active(NODE)
    front = EmbeddingCamera(graph, siglip_bundle, rate_hz=60.0)
    rear = EmbeddingCamera(graph, siglip_bundle, rate_hz=10.0, name="rear")
    steer = graph.publisher(String, "front/instruction")

    def ask(camera: str) -> Any:
        request = Ask.Request(
            question="is it", choices=["wet", "dry"], camera=camera, timeout=TIMEOUT_S
        )
        return graph.call(Ask, f"/{NODE}/ask", request)

    def level(camera: str) -> bytes | None:
        status = graph.status(NODE, part=camera)
        return None if status is None else bytes(status.level)

    try:
        for inbox in inboxes.values():
            assert inbox.wait().trigger == "first"
        steer.publish(String(data="a car"))
        inboxes["front"].wait(lambda message: message.instruction_version == 1)
        wait_until("more of the rare one", lambda: len(inboxes["rear"].all()) > 5)
        assert not any(message.instruction_version for message in inboxes["rear"].all())
        assert ask("front").success and ask("/rear").success
        for unclear in ("", "left"):
            assert "serves the cameras front, rear" in ask(unclear).message
        wait_until("a good report", lambda: level("front") == DiagnosticStatus.OK)
        front.close()
        wait_until("the loss", lambda: level("front") == DiagnosticStatus.ERROR)
        wait_until("its cause", lambda: "on /front/embedding" in graph.status(NODE).message)
        inboxes["rear"].clear()
        inboxes["rear"].wait()
        wait_until("the other to be well", lambda: level("rear") == DiagnosticStatus.OK)
        assert ask("rear").success
        assert "no embedding" in ask("front").message
    finally:
        front.close()
        rear.close()
    process.stop()
    assert refused.wait() == 2
    assert "'' cannot be a camera's name" in refused.log() and "Traceback" not in refused.log()
