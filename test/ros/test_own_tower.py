# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes with a bundle whose language model has a vision tower of its own."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from support.camera import image, picture, stamped
from support.embedding_camera import EmbeddingCamera
from support.ros_graph import BEST_EFFORT, Graph, wait_until

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.msg import SceneReasoning
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.srv import Ask
from vlm_perception.types import Frame

NODE = "language_reasoner"
PATIENT = {"max_caption_tokens": 4, "niceness": 0, "answer_timeout": 30.0}
ASKED = Ask.Request(question="is it", choices=["wet", "dry"])


@pytest.mark.parametrize("programs", [("vision_encoder", NODE), ("perception",)])
def test_it_looks_at_key_frames(
    graph: Graph, own_bundle: ModelBundle, programs: tuple[str, ...]
) -> None:
    """In processes of their own or in one, and with the words of an analysis without nodes."""
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    for program in programs:
        parameters = {} if program == "vision_encoder" else PATIENT
        graph.start(program, bundle=own_bundle.path, **parameters)
    for node in ("vision_encoder", NODE):
        graph.wait_active(node)
    camera = graph.publisher(Image, "image", BEST_EFFORT)
    pixels = picture(64, 36)

    def came() -> SceneReasoning | None:
        camera.publish(stamped(image(pixels, "rgb8"), time.time_ns()))
        time.sleep(0.03)
        return next((each for each in reasonings.all() if each.is_keyframe), None)

    said = wait_until("a reasoning", came)
    seen = VisionEncoder(own_bundle).encode(Frame(pixels, 1), 0)
    expected = Reasoner(LanguageService(own_bundle)).reason(seen).attributes
    for one, other in zip(said.attributes, expected, strict=True):
        assert one.value == other.value
        assert list(one.probabilities) == pytest.approx(other.probabilities, abs=1e-3)
    apart = "detail" in {stage.name for stage in said.stages}
    assert apart == (len(programs) > 1), "within a process the image is handed over"
    came()
    answer = graph.call(Ask, f"/{NODE}/ask", ASKED)
    assert answer.success, answer.message


def test_what_it_cannot_look_at_is_told(graph: Graph, own_bundle: ModelBundle) -> None:
    node = graph.start(NODE, "__ns:=/front", bundle=own_bundle.path, **PATIENT)
    reasonings = graph.listen(SceneReasoning, "front/reasoning", 10)
    graph.wait_active(f"front/{NODE}")
    camera = EmbeddingCamera(graph, own_bundle, on_demand=True)
    tall = np.zeros((1, 48, 52, 3), np.uint8)
    try:
        reasonings.wait()
        camera.answer = lambda frame: replace(camera.details.of(frame), tensors=(tall,))
        wait_until("a warning", lambda: "uint8 of shape (1, 48, 52, 3)" in node.log())
        camera.answer = camera.details.of
        reasonings.clear()
        reasonings.wait(lambda message: message.is_keyframe)
    finally:
        camera.close()
    node.stop()


def test_an_encoder_that_sends_no_views_is_told(graph: Graph, own_bundle: ModelBundle) -> None:
    """As a recording of embeddings, or an encoder that knows no `embedding/detail`."""
    node = graph.start(NODE, "__ns:=/front", bundle=own_bundle.path, **PATIENT)
    graph.wait_active(f"front/{NODE}")
    camera = EmbeddingCamera(graph, own_bundle)
    told = "the views of the image of a frame were requested but did not arrive"
    remedy = "start a vision_encoder of this version"

    def said() -> bool:
        status = graph.status(f"front/{NODE}")
        message, level = status.message, status.level
        return bool(level == DiagnosticStatus.ERROR and told in message and remedy in message)

    try:
        wait_until("an error", said)
        assert told in graph.call(Ask, f"/front/{NODE}/ask", ASKED).message
    finally:
        camera.close()
    node.stop()
