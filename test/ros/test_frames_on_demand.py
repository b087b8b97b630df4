# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Frames on demand over real DDS: the encoder sends what is asked for, the language node asks."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from support.camera import image, picture, stamped
from support.embedding_camera import EmbeddingCamera
from support.ros_graph import BEST_EFFORT, Graph, wait_until

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.memory import KEPT_FRAMES
from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.tables import DETAIL, EMBEDDING
from vlm_perception.msg import FrameDetail, FrameRequest, SceneReasoning, VisionEmbedding
from vlm_perception.nodes.io import intra_process
from vlm_perception.nodes.io.embedding_subscription import EmbeddingArrival, EmbeddingInput
from vlm_perception.nodes.io.qos import results
from vlm_perception.nodes.process.watchdog import Watchdog
from vlm_perception.nodes.process.worker import Worker
from vlm_perception.perception.details import Details
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.srv import Ask
from vlm_perception.types import Frame

NODE = "language_reasoner"


def test_the_encoder_sends_what_is_asked_for(graph: Graph, siglip_bundle: ModelBundle) -> None:
    node = graph.start("vision_encoder", "embedding:=eyes", bundle=siglip_bundle.path)
    embeddings = graph.listen(VisionEmbedding, "eyes")
    details = graph.listen(FrameDetail, "eyes/detail", results(2))
    graph.wait_active("vision_encoder")
    camera = graph.publisher(Image, "image", BEST_EFFORT)
    wanting = graph.publisher(FrameRequest, "eyes/want", results(4))
    pixels = picture(64, 36)

    def sent(number: int) -> Any:
        """The newest embedding, once so many have come; their stamps name no frame."""
        message = stamped(image(pixels, "rgb8"), 0)

        def came() -> bool:
            camera.publish(message)
            time.sleep(0.05)
            return len(embeddings.all()) >= number

        wait_until("embeddings", came)
        return embeddings.all()[-1]

    def values(key: str) -> int:
        return int(graph.values("vision_encoder").get(key, 0))

    seen = sent(1)
    assert (list(seen.tokens.shape), len(seen.tokens.data), len(seen.token_index)) == ([0, 0], 0, 0)
    wanting.publish(FrameRequest(run_id=seen.run_id, sequence=seen.sequence))
    detail = details.wait()
    assert (detail.run_id, detail.sequence) == (seen.run_id, seen.sequence)
    assert (detail.header, detail.bundle_digest) == (seen.header, seen.bundle_digest)
    expected = VisionEncoder(siglip_bundle).encode(Frame(pixels, 0, "camera"), 0)
    details_of = Details(siglip_bundle.manifest)
    whole = details_of.put_back(EMBEDDING.read(seen), DETAIL.read(detail))
    np.testing.assert_array_equal(whole.tokens, expected.tokens, strict=True)
    np.testing.assert_array_equal(whole.token_index, expected.token_index, strict=True)
    last = sent(len(embeddings.all()) + KEPT_FRAMES)
    for run_id, sequence in ((seen.run_id, seen.sequence), ("another", 0), ("another", 1)):
        wanting.publish(FrameRequest(run_id=run_id, sequence=sequence))
    wait_until("counts", lambda: (values("wants_gone"), values("wants_foreign")) == (1, 2))
    wanting.publish(FrameRequest(run_id=last.run_id, sequence=last.sequence))
    details.wait(lambda message: message.sequence == last.sequence)
    wait_until("a count", lambda: values("details") == 2)
    assert len(details.all()) == 2, "nothing comes that was not asked for, or is gone"
    node.stop()


def test_key_frames_and_questions_wait_for_their_details(
    graph: Graph, siglip_bundle: ModelBundle
) -> None:
    few = {"max_caption_tokens": 4, "niceness": 0}
    node = graph.start(NODE, "__ns:=/front", bundle=siglip_bundle.path, **few)
    reasonings = graph.listen(SceneReasoning, "front/reasoning", 10)
    graph.wait_active(f"front/{NODE}")
    camera = EmbeddingCamera(graph, siglip_bundle, on_demand=True)

    def status() -> Any:
        return graph.status(f"front/{NODE}")

    def ask() -> Any:
        request = Ask.Request(question="is it", choices=["wet", "dry"])
        return graph.call(Ask, f"/front/{NODE}/ask", request)

    try:
        first = reasonings.wait()
        assert (first.sequence, first.trigger) == (0, "first")
        assert "detail" in {stage.name for stage in first.stages}
        read = Reasoner(LanguageService(siglip_bundle)).reason(camera.seen).attributes
        for said, expected in zip(first.attributes, read, strict=True):
            assert said.value == expected.value
            assert list(said.probabilities) == pytest.approx(expected.probabilities, abs=1e-5)
        assert ask().success
        for answer, cause in (
            (
                lambda frame: None,
                "did not arrive on /front/embedding/detail within 0.1 s",
            ),
            (
                lambda frame: camera.details.of(replace(frame, run_id="another")),
                "/front/embedding/detail was ignored: it belongs to run 'another'",
            ),
        ):
            camera.answer = answer
            wait_until("an error", lambda: status().level == DiagnosticStatus.ERROR)
            wait_until(cause, lambda words=cause: words in node.log() + status().message)
            assert "cannot be read: the patch tokens" in ask().message
            reasonings.clear()
            camera.answer = camera.details.of
            reasonings.wait(lambda message: message.is_keyframe)
            wait_until("to be well", lambda: status().level < DiagnosticStatus.ERROR)
        camera.answer = lambda frame: replace(camera.details.of(frame), names=("view", "tiles"))
        wait_until("a warning", lambda: "lacks token_index and tokens" in node.log())
        assert graph.transition(f"front/{NODE}", "deactivate")
    finally:
        camera.close()
    values = graph.values(f"front/{NODE}")
    assert int(values["details"]) and int(values["details_missing"]) >= 10
    assert int(values["details_ignored"]) >= int(values["bad_messages.foreign_detail"]) >= 5
    node.stop()


def test_a_camera_without_details_keeps_no_other_waiting(
    graph: Graph, siglip_bundle: ModelBundle
) -> None:
    node = graph.start(
        NODE, bundle=siglip_bundle.path, cameras="['front','rear']", rate_hz=20.0, niceness=0
    )
    reasonings = graph.listen(SceneReasoning, "front/reasoning", 100)
    graph.wait_active(NODE)
    front = EmbeddingCamera(graph, siglip_bundle, on_demand=True)
    rear = EmbeddingCamera(graph, siglip_bundle, name="rear", on_demand=True)
    rear.answer = lambda frame: None

    def lost(camera: str) -> bool:
        status = graph.status(NODE, part=camera)
        return status is not None and "cannot be analysed" in status.message

    try:
        wait_until("the loss", lambda: lost("rear"))
        reasonings.clear()
        reasonings.wait(lambda message: message.is_keyframe)
        assert lost("rear") and not lost("front")
        back = graph.listen(SceneReasoning, "rear/reasoning", 10)
        rear.answer = rear.details.of
        assert back.wait().sequence == 0, "what could not be analysed leaves no gap"
    finally:
        front.close()
        rear.close()
    node.stop()


def test_within_a_process_an_embedding_is_handed_over_as_it_is(
    graph: Graph, siglip_bundle: ModelBundle
) -> None:
    intra_process.offer("/eyes")
    arrivals: list[EmbeddingArrival] = []
    stream = EmbeddingInput(graph.node, arrivals.append, "eyes")
    seen = VisionEncoder(siglip_bundle).encode(Frame(picture(64, 36), 1), 0)
    intra_process.give("/eyes", seen, 0.25)
    intra_process.give("/eyes", replace(seen, pooled=seen.pooled * np.float32("nan")), 0.25)
    stream.close()
    intra_process.give("/eyes", seen, 0.25)
    good, broken = arrivals
    assert good.read() is seen and good.spent_s == 0.25
    with pytest.raises(MessageError, match="NaN"):
        broken.read()


def test_what_came_to_nothing_takes_no_turn() -> None:
    taken: list[str] = []

    def handle(item: str) -> bool:
        taken.append(item)
        return not item.startswith("nothing")

    watchdog = Watchdog(lambda *_: None)
    worker = Worker("work", handle, lambda _: None, watchdog, interval=lambda: 3600.0)
    items = ["nothing", "nothing again", "a tick", "the next one"]
    for item in items:
        worker.mailbox.put(item, sender=item)
    worker.start()
    wait_until("a tick", lambda: len(taken) == 3)
    assert worker.stop(5.0)
    watchdog.close()
    assert taken == items[:3]
