# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The three nodes as real processes over real DDS: what comes out, and what bad input does."""

from __future__ import annotations

import re
import shutil
import signal
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from support import jpeg_corpora
from support.camera import compressed, image, picture, stamped
from support.ros_graph import (
    BEST_EFFORT,
    Graph,
    Inbox,
    NodeProcess,
    free_domain,
    wait_until,
)
from visualization_msgs.msg import MarkerArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.messages.ros import ROS
from vlm_perception.messages.tables import EMBEDDING
from vlm_perception.msg import EmbeddingInfo, SceneReasoning, SemanticScene, VisionEmbedding
from vlm_perception.nodes.io.qos import latched, subscribe_alive
from vlm_perception.nodes.scene_fusion import LEASE_S
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.srv import SetVocabulary
from vlm_perception.types import Frame

WIDTH, HEIGHT = 320, 180
MS = 1_000_000
YEAR_NS = 31_557_600_000 * MS


def now_ns() -> int:
    return time.time_ns()


def rgb(stamp_ns: int, seed: int = 0) -> Any:
    return stamped(image(picture(WIDTH, HEIGHT, seed), "rgb8"), stamp_ns)


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def send(publisher: Any, message: Any, inbox: Inbox) -> Any:
    """Publish an image until the embedding with its stamp comes; a best-effort one may be lost."""

    def answered() -> Any:
        publisher.publish(message)
        time.sleep(0.05)
        wanted = stamp_of(message)
        return next((found for found in inbox.all() if stamp_of(found) == wanted), None)

    return wait_until("an embedding", answered)


def count(graph: Graph, node: str, key: str) -> int:
    return int(graph.values(node).get(f"bad_messages.{key}", 0))


@pytest.fixture(scope="module")
def seeing(
    siglip_bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Graph, NodeProcess]]:
    """A graph with an active encoder of /front/image, which several tests talk to."""
    graph = Graph(tmp_path_factory.mktemp("seeing"), domain=free_domain())
    try:
        encoder = graph.start("vision_encoder", "image:=front/image", bundle=siglip_bundle.path)
        graph.wait_active("vision_encoder")
        yield graph, encoder
        encoder.stop()
    finally:
        graph.close()


def test_camera_images_become_scenes(graph: Graph, siglip_bundle: ModelBundle) -> None:
    bundle = siglip_bundle.path
    graph.start("vision_encoder", bundle=bundle)
    reasoner = graph.start("language_reasoner", bundle=bundle, max_keyframe_age=3600.0)
    graph.start("scene_fusion", hazards="['car', 'truck', 'pedestrian', 'red traffic light']")
    info = graph.listen(EmbeddingInfo, "embedding_info", latched())
    embeddings = graph.listen(VisionEmbedding, "embedding")
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    scenes = graph.listen(SemanticScene, "scene", 10)
    for name in ("vision_encoder", "language_reasoner", "scene_fusion"):
        graph.wait_active(name)
    camera = graph.publisher(Image, "image", BEST_EFFORT)

    def play(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            camera.publish(rgb(now_ns()))
            time.sleep(1 / 30)

    play(2.0)
    described = info.wait()
    assert described.bundle_digest == siglip_bundle.digest
    spec = siglip_bundle.manifest
    assert list(described.vocabulary) == [label.label for label in spec.vocabulary.labels]
    embedding = embeddings.wait()
    assert described.tokens_count == spec.vision.tokens and not embedding.tokens.data
    assert (embedding.header.frame_id, embedding.image_width) == ("camera", WIDTH)
    reasoning = reasonings.wait(lambda message: message.is_keyframe)
    assert [item.name for item in reasoning.attributes] == [q.name for q in spec.questions]
    assert sum(reasoning.attributes[0].probabilities) == pytest.approx(1.0, abs=1e-4)
    repeat = reasonings.wait(lambda message: not message.is_keyframe)
    assert repeat.caption == reasoning.caption and repeat.trigger == "none"
    scene = scenes.wait(lambda message: message.status == SemanticScene.STATUS_OK)
    assert stamp_of(scene) in {stamp_of(message) for message in embeddings.all()}
    assert 0 <= scene.embedding_age < 5 and scene.attributes and scene.hazards
    assert {stage.name for stage in scene.latency} >= {"capture_to_embedding", "capture_to_scene"}

    graph.publisher(String, "instruction").publish(String(data="a car"))
    play(1.0)
    changed = reasonings.wait(lambda message: message.instruction_version == 1)
    assert (changed.trigger, changed.instruction) == ("instruction", "a car")

    markers = graph.listen(MarkerArray, "scene/markers", 10)
    overlays = graph.listen(Image, "scene/overlay")
    play(2.0)
    assert markers.wait(lambda message: any("OK" in marker.text for marker in message.markers))
    assert (overlays.wait().width, overlays.wait().height) == (WIDTH, HEIGHT)

    reasoner.stop(signal.SIGTERM)
    play(2.0)
    scenes.wait(lambda message: message.status == SemanticScene.STATUS_STALE_REASONING)
    wait_until(
        "a heartbeat",
        lambda: scenes.all()[-1].status == SemanticScene.STATUS_NO_CAMERA,
    )
    scenes.clear()
    time.sleep(2.0)
    beats = scenes.all()
    assert len(beats) >= 4 and stamp_of(beats[0]) > 0
    assert "no image" in beats[-1].reason and beats[-1].reasoning_age > beats[0].reasoning_age


def test_one_process_can_hold_all_three_nodes(graph: Graph, siglip_bundle: ModelBundle) -> None:
    process = graph.start("perception", bundle=str(siglip_bundle.path))
    scenes = graph.listen(SemanticScene, "scene", 10)
    for name in ("vision_encoder", "language_reasoner", "scene_fusion"):
        graph.wait_active(name)
    camera = graph.publisher(Image, "image", BEST_EFFORT)
    for _ in range(60):
        camera.publish(rgb(now_ns()))
        time.sleep(1 / 30)
    assert scenes.wait(lambda message: message.status == SemanticScene.STATUS_OK).caption
    process.stop()


def bad_images() -> list[tuple[str, Any]]:
    unknown = image(picture(8, 8), "rgb9")
    step = image(picture(8, 8), "rgb8")
    step.step = 5
    length = image(picture(8, 8), "rgb8")
    length.data = length.data[:-1]
    empty = image(picture(8, 8), "rgb8")
    empty.height = 0
    return [
        ("bad_encoding", unknown),
        ("bad_step", step),
        ("bad_data_length", length),
        ("bad_size", empty),
    ]


def test_bad_images_are_told_and_survived(seeing: tuple[Graph, NodeProcess]) -> None:
    graph, encoder = seeing
    embeddings = graph.listen(VisionEmbedding, "embedding")
    camera = graph.publisher(Image, "front/image", BEST_EFFORT)
    send(camera, rgb(now_ns()), embeddings)
    for kind, bad in bad_images():
        stamped(bad, now_ns())
        wait_until(
            f"a warning of {kind}",
            lambda kind=kind, bad=bad: (
                camera.publish(bad),
                time.sleep(0.2),
                count(graph, "vision_encoder", kind),
            )[-1],
        )
        assert f"image on /front/image was skipped: its {kind.split('_')[1]}" in encoder.log()
        send(camera, rgb(now_ns()), embeddings)
    warnings = [line for line in encoder.log().splitlines() if "its encoding" in line]
    assert len(warnings) == 1, "the same warning is throttled"


GOOD = {
    "1x1": image(picture(1, 1), "rgb8"),
    "portrait": image(picture(180, 320), "bgr8"),
    "4096x2160": image(picture(4096, 2160)[..., 0], "mono8"),
    "padded": image(picture(33, 17), "rgb8", padding=5),
    "bgra8": image(np.full((20, 20, 4), 7, np.uint8), "bgra8"),
    "yuv422": image(np.full((20, 20, 2), 7, np.uint8), "yuv422"),
    "rgb16": image(np.full((20, 20, 3), 700, np.uint16), "rgb16", big_endian=True),
    "bayer": image(np.full((20, 20), 7, np.uint8), "bayer_rggb8"),
}


def test_odd_images_are_encoded(seeing: tuple[Graph, NodeProcess]) -> None:
    graph, _ = seeing
    embeddings = graph.listen(VisionEmbedding, "embedding")
    camera = graph.publisher(Image, "front/image", BEST_EFFORT)
    for name, message in GOOD.items():
        embedding = send(camera, stamped(message, now_ns()), embeddings)
        assert (embedding.image_width, embedding.image_height) == (message.width, message.height)
        assert np.isfinite(np.frombuffer(embedding.pooled.data, "<f4")).all(), name


def test_compressed_images(graph: Graph, siglip_bundle: ModelBundle) -> None:
    encoder = graph.start("vision_encoder", bundle=siglip_bundle.path, image_transport="compressed")
    embeddings = graph.listen(VisionEmbedding, "embedding")
    graph.wait_active("vision_encoder")
    camera = graph.publisher(CompressedImage, "image/compressed", BEST_EFFORT)
    send(camera, stamped(compressed(picture(WIDTH, HEIGHT)), now_ns()), embeddings)
    cut = stamped(compressed(picture(WIDTH, HEIGHT)), now_ns())
    cut.data = cut.data[: len(cut.data) // 2]
    wait_until(
        "a warning of the cut image",
        lambda: (camera.publish(cut), time.sleep(0.1), "ends in mid-image" in encoder.log())[-1],
    )
    send(camera, stamped(compressed(picture(64, 48), ".png"), now_ns()), embeddings)
    whole = jpeg_corpora.whole("restarts")
    holed, padded, filled = (
        stamped(CompressedImage(format="jpeg", data=array("B", file)), now_ns())
        for file in (
            whole[:9000] + whole[-9000:],
            whole.replace(b"\xff\xd3", b"\x00\xff\xd3"),
            whole[:-2] + bytes(500) + whole[-2:],
        )
    )

    def told() -> Any:
        return graph.status("vision_encoder")

    wait_until(
        "a warning of the hole",
        lambda: (
            camera.publish(holed),
            time.sleep(0.1),
            told().level == DiagnosticStatus.WARN and "its JPEG is damaged" in told().message,
        )[-1],
    )
    assert count(graph, "vision_encoder", "damaged")
    padded.header.stamp.sec += 1
    send(camera, padded, embeddings)
    wait_until("padding", lambda: int(graph.values("vision_encoder")["padded"]))
    assert "pads its JPEGs" in graph.values("vision_encoder")["camera"]
    filled.header.stamp.sec += 2
    wait_until(
        "the remedy",
        lambda: (
            camera.publish(filled),
            time.sleep(0.05),
            "jpeg_padding:=accept" in told().message,
        )[-1],
    )
    assert graph.set_parameter("vision_encoder", "jpeg_padding", "accept").successful
    send(camera, filled, embeddings)
    assert "\nCorrupt JPEG data" not in encoder.log()
    encoder.stop()


def test_stamps_of_zero_and_backwards(graph: Graph, siglip_bundle: ModelBundle) -> None:
    bundle = siglip_bundle.path
    encoder = graph.start("vision_encoder", bundle=bundle)
    graph.start("language_reasoner", bundle=bundle)
    fusion = graph.start("scene_fusion")
    embeddings = graph.listen(VisionEmbedding, "embedding")
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    scenes = graph.listen(SemanticScene, "scene", 10)
    for name in ("vision_encoder", "language_reasoner", "scene_fusion"):
        graph.wait_active(name)
    camera = graph.publisher(Image, "image", BEST_EFFORT)

    def degraded() -> Any:
        send(camera, rgb(0), embeddings)
        wanted = SemanticScene.STATUS_DEGRADED
        return next((message for message in scenes.all() if message.status == wanted), None)

    scene = wait_until("a scene that is DEGRADED", degraded)
    assert stamp_of(embeddings.wait()) == 0
    assert scene.embedding_age < 0 and "stamp" in scene.reason
    assert "has stamp 0" in encoder.log() and "/image" in encoder.log()

    start = now_ns()
    stamps = [start + frame * 100 * MS for frame in range(10)]
    for stamp in stamps:
        send(camera, rgb(stamp), embeddings)
    reasonings.wait(lambda message: stamp_of(message) == stamps[-1])
    for stamp in stamps[:3]:  # a bag that starts again
        send(camera, rgb(stamp + 1), embeddings)
    jumped = reasonings.wait(lambda message: message.trigger == "time_jump")
    assert stamp_of(jumped) < start + 1000 * MS
    assert fusion.log().count("went back by") == encoder.log().count("went back by") == 1


def test_embedding_of_another_bundle(graph: Graph, siglip_bundle: ModelBundle) -> None:
    seen = VisionEncoder(siglip_bundle).encode(Frame(picture(WIDTH, HEIGHT), now_ns()), 0)
    good = EMBEDDING.write(seen, ROS, processing_time=0.01)
    reasoner = graph.start("language_reasoner", "embedding:=other", bundle=siglip_bundle.path)
    graph.wait_active("language_reasoner")
    reasonings = graph.listen(SceneReasoning, "reasoning", 10)
    foreign = graph.publisher(VisionEmbedding, "other", BEST_EFFORT)

    def warned(sentence: str) -> Any:
        return lambda: (foreign.publish(good), time.sleep(0.1), sentence in reasoner.log())[-1]

    own = good.bundle_digest
    good.bundle_digest = "0" * 64
    wait_until("a warning", warned("start both nodes with the same bundle"))
    assert "embedding on /other was skipped" in reasoner.log()
    good.bundle_digest = own
    shape, good.tokens.shape = good.tokens.shape, [1000000, 1000000]
    wait_until("a warning", warned("tokens of shape"))
    good.tokens.shape = shape
    wait_until("an answer", lambda: (foreign.publish(good), time.sleep(0.1), reasonings.all())[-1])
    reasoner.stop()


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_damaged_bundle_is_refused_until_it_is_mended(
    graph: Graph, siglip_bundle: ModelBundle, tmp_path: Path, damage: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(siglip_bundle.path, bundle)
    file = bundle / "vision.onnx"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(whole[:-1])
    else:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    encoder = graph.start("vision_encoder", bundle=bundle)
    sentence = graph.wait_error("vision_encoder")
    assert "vision.onnx" in sentence and damage.replace("missing", "is missing") in sentence
    assert "Traceback" not in encoder.log()
    file.write_bytes(whole)
    assert graph.transition("vision_encoder", "configure")
    assert graph.transition("vision_encoder", "activate")
    graph.wait_active("vision_encoder")
    encoder.stop()


def test_parameters_are_checked(graph: Graph, siglip_bundle: ModelBundle) -> None:
    override = "qos_overrides./image.subscriber.depth"
    unknown: dict[str, Any] = {"treads": 2, override: 3}
    encoder = graph.start("vision_encoder", bundle=siglip_bundle.path, **unknown)
    graph.wait_active("vision_encoder")
    for name in unknown:
        assert f"there is no parameter {name}, so" in encoder.log()
    assert "did you mean threads?" in encoder.log()
    for name, value, reason in [
        ("input_timeout", 0.0, "0.1"),
        ("input_timeout", "soon", "give a number"),
        ("input_timeout", float("nan"), "nan"),
        ("threads", 2, "clean up the node first"),
        ("threads", 1000, "64"),
        ("image_transport", "theora", "raw, compressed"),
        ("autostart", False, "read-only"),
    ]:
        result = graph.set_parameter("vision_encoder", name, value)
        assert not result.successful and reason in result.reason, (name, result.reason)
    assert graph.set_parameter("vision_encoder", "input_timeout", 5).successful
    # As `ros2 param load` of the node's own dump does.
    for name, value in [("threads", 1), ("autostart", True), ("use_sim_time", False)]:
        assert graph.set_parameter("vision_encoder", name, value).successful, name
    assert graph.transition("vision_encoder", "deactivate")
    assert graph.transition("vision_encoder", "cleanup")
    assert graph.set_parameter("vision_encoder", "threads", 2).successful
    assert not graph.transition("vision_encoder", "activate"), "not from unconfigured"
    assert graph.transition("vision_encoder", "configure")
    assert graph.transition("vision_encoder", "activate")
    encoder.stop()
    told = re.findall(r"\]: (\w+(?: up)?) \(run", encoder.log())
    assert told == ["configured", "activated", "deactivated", "cleaned up", *told[:2]]
    refused = graph.start("scene_fusion", heartbeat_hz=1.0)
    assert refused.wait() == 2
    assert "heartbeat_hz" in refused.log() and "Traceback" not in refused.log()


def test_vocabulary_is_replaced_between_frames(seeing: tuple[Graph, NodeProcess]) -> None:
    graph, _ = seeing
    info = graph.listen(EmbeddingInfo, "embedding_info", latched())

    def replace(*labels: str) -> Any:
        request = SetVocabulary.Request(labels=list(labels))
        return graph.call(SetVocabulary, "/vision_encoder/set_vocabulary", request)

    accepted = replace("car", "zebra")
    assert accepted.accepted and accepted.vocabulary_version == 2, accepted.message
    told = info.wait(lambda message: message.vocabulary_version == 2)
    assert list(told.vocabulary) == ["car", "zebra"] and len(told.thresholds) == 2
    refused = replace("car", "car")
    assert not refused.accepted and refused.vocabulary_version == 2 and "twice" in refused.message
    assert replace().vocabulary_version == 3
    assert len(info.wait(lambda message: message.vocabulary_version == 3).vocabulary) == 4


def test_lifecycle_without_autostart(graph: Graph, siglip_bundle: ModelBundle) -> None:
    nodes = {
        "vision_encoder": {"bundle": siglip_bundle.path},
        "language_reasoner": {"bundle": siglip_bundle.path},
        "scene_fusion": {},
    }
    for name, parameters in nodes.items():
        process = graph.start(name, autostart=False, **parameters)
        if name == "vision_encoder":
            request = SetVocabulary.Request(labels=["car"])
            early = graph.call(SetVocabulary, "/vision_encoder/set_vocabulary", request)
            assert not early.accepted and "configure it first" in early.message
            assert early.vocabulary_version == 0
        for label in ("configure", "activate", "deactivate", "cleanup", "configure", "shutdown"):
            assert graph.transition(name, label), f"{name}: {label}\n{process.log()}"
        process.stop()


def test_what_waits_and_what_rests_is_told_apart(graph: Graph) -> None:
    process = graph.start("scene_fusion", autostart=False)

    def told(level: bytes, words: str) -> None:
        def said() -> bool:
            status = graph.status("scene_fusion")
            return status is not None and status.level == level and words in status.message

        wait_until(words, said)

    told(DiagnosticStatus.WARN, "waits unconfigured: run `ros2 lifecycle set /scene_fusion conf")
    assert graph.transition("scene_fusion", "configure")
    told(DiagnosticStatus.WARN, "waits inactive: run `ros2 lifecycle set /scene_fusion activate`")
    assert graph.transition("scene_fusion", "activate")
    told(DiagnosticStatus.WARN, "no image has arrived yet: on /image publishers: 0; start the")
    told(DiagnosticStatus.ERROR, "on /embedding: publishers: 0; start its vision_encoder")
    assert int(graph.values("scene_fusion")["troubles"]) == 2
    assert graph.transition("scene_fusion", "deactivate")
    told(DiagnosticStatus.OK, "inactive, as requested")
    process.stop()


def test_diagnostics_are_well_only_when_the_scene_is(
    graph: Graph, siglip_bundle: ModelBundle
) -> None:
    nodes = {
        "vision_encoder": graph.start("vision_encoder", bundle=siglip_bundle.path),
        "scene_fusion": graph.start("scene_fusion"),
    }
    scenes = graph.listen(SemanticScene, "scene", 10)
    camera = graph.publisher(Image, "image", BEST_EFFORT)

    def told(name: str, level: bytes, words: str, ahead_ns: int) -> None:
        def said() -> Any:
            camera.publish(rgb(now_ns() + ahead_ns))
            time.sleep(0.05)
            status = graph.status(name)
            same = level == DiagnosticStatus.OK or words in nodes[name].log()
            return same and status and status.level == level and words in status.message

        wait_until(f"{words} in diagnostics and log of {name}", said)

    told("scene_fusion", DiagnosticStatus.OK, "tags only: on /reasoning publishers: 0", 0)
    for offset_ns, words in ((-15 * YEAR_NS, "15.0 years old when"), (YEAR_NS, "in the future")):
        for name in nodes:
            told(name, DiagnosticStatus.WARN, words, offset_ns)
            assert "set the camera's clock" in graph.status(name).message
        assert any(words in scene.reason for scene in scenes.all())
    assert count(graph, "vision_encoder", "clock") > 0


def test_liveliness_tells_of_a_node_that_says_nothing(graph: Graph) -> None:
    graph.start("scene_fusion")
    alive: list[int] = []
    subscribe_alive(
        graph.node,
        SemanticScene,
        "scene",
        lambda _: None,
        lambda event: alive.append(event.alive_count),
        LEASE_S,
    )
    wait_until("a first scene", lambda: alive == [1])
    assert graph.transition("scene_fusion", "deactivate")
    wait_until("silence to be told", lambda: alive[-1] == 0)
    assert graph.transition("scene_fusion", "activate")
    wait_until("scenes again", lambda: alive[-1] == 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_nodes(
    graph: Graph, siglip_bundle: ModelBundle, number: signal.Signals
) -> None:
    processes = [
        graph.start("vision_encoder", bundle=siglip_bundle.path),
        graph.start("language_reasoner", bundle=siglip_bundle.path),
        graph.start("scene_fusion"),
    ]
    for process in processes:
        graph.wait_active(process.name)
    camera = graph.publisher(Image, "image", BEST_EFFORT)
    for _ in range(10):
        camera.publish(rgb(now_ns()))
        time.sleep(0.03)
    for process in processes:
        process.stop(number)


def test_sim_time_without_a_clock(graph: Graph) -> None:
    fusion = graph.start("scene_fusion", use_sim_time=True)
    graph.wait_active("scene_fusion")
    scenes = graph.listen(SemanticScene, "scene", 10)
    scene = scenes.wait()
    assert scene.status == SemanticScene.STATUS_NO_CAMERA and scene.embedding_age < 0
    camera = graph.publisher(Image, "image", BEST_EFFORT)
    wait_until(
        "the camera to be seen",
        lambda: (
            camera.publish(rgb(now_ns())),
            time.sleep(0.05),
            scenes.all()[-1].status == SemanticScene.STATUS_NO_EMBEDDING,
        )[-1],
    )
    fusion.stop()


def test_an_incompatible_camera_is_told(graph: Graph, siglip_bundle: ModelBundle) -> None:
    encoder = graph.start(
        "vision_encoder",
        bundle=siglip_bundle.path,
        **{"qos_overrides./image.subscription.reliability": "reliable"},
    )
    graph.wait_active("vision_encoder")
    graph.node.create_publisher(Image, "image", BEST_EFFORT)
    sentence = "offer a QoS that is incompatible with this subscription"
    wait_until("a warning", lambda: sentence in encoder.log())
    assert count(graph, "vision_encoder", "incompatible_qos") or wait_until(
        "a count", lambda: count(graph, "vision_encoder", "incompatible_qos")
    )
    encoder.stop()
