# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""~/locate of the real language node, with the real encoder's patches, and what is followed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from support.camera import image, stamped
from support.embedding_camera import EmbeddingCamera
from support.ros_graph import BEST_EFFORT, Graph, wait_until
from visualization_msgs.msg import MarkerArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.msg import LocatedObject, LocatedObjects
from vlm_perception.perception.locating.locator import WAITING
from vlm_perception.srv import Locate

NODE = "language_reasoner"
SEED = 3
AT_ONCE = 50
PATCH = 40
"""Pixels of the image that a patch covers."""


class Camera:
    """Sends `pixels` ten times a second."""

    def __init__(self, graph: Graph, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self._publisher = graph.publisher(Image, "image", BEST_EFFORT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._publisher.publish(stamped(image(self.pixels, "rgb8"), time.time_ns()))


@pytest.fixture
def street() -> Any:
    return next(iter(Streets(range(SEED, SEED + 1), size=(640, 360))))


@pytest.fixture
def camera(graph: Graph, street: Any) -> Iterator[Camera]:
    graph.start("vision_encoder")
    graph.wait_active("vision_encoder")
    camera = Camera(graph, street.image)
    yield camera
    camera.close()


def locate(graph: Graph, phrase: str, **fields: Any) -> Any:
    return graph.call(Locate, f"/{NODE}/locate", Locate.Request(phrase=phrase, **fields))


def _follows(graph: Graph, camera: str) -> bool:
    return bool(locate(graph, "car", camera=camera, track=True).boxes)


def centre(found: Any) -> tuple[int, int]:
    return round(found.x + found.width / 2), round(found.y + found.height / 2)


def test_a_phrase_is_found_and_followed_until_it_is_lost(
    graph: Graph, camera: Camera, street: Any
) -> None:
    node = graph.start(NODE, input_timeout=1.0, niceness=0, rate_hz=0.2)
    graph.start("scene_fusion")
    markers = graph.listen(MarkerArray, "scene/markers", 10)
    locations = graph.listen(LocatedObjects, "locations", 10)
    graph.wait_active(NODE)
    graph.wait_active("scene_fusion")
    car = max((o for o in street.truth.objects if o.label == "car"), key=lambda o: o.share)
    wait_until("a frame", lambda: locate(graph, "car").success)
    once = locate(graph, " car ")
    assert once.method == "patch" and once.header.frame_id == "camera" and once.run_id
    assert (once.image_width, once.image_height) == (640, 360)
    assert all((each.id, each.phrase) == (0, "car") for each in once.boxes)
    x, y = centre(once.boxes[0])
    assert street.rendered.ids[y, x] == car.identity and 0 < once.boxes[0].score <= 1
    assert not locations.all(), "what is not to be followed is not published"

    followed = locate(graph, "the car", track=True)
    ids = [each.id for each in followed.boxes]
    assert followed.success and sorted(ids) == list(range(1, len(ids) + 1))
    assert [each.id for each in locate(graph, "the car", track=True).boxes] == ids
    seen = locations.wait(lambda message: message.objects[0].state == LocatedObject.STATE_FOUND)
    markers.wait(lambda message: any(each.ns == "followed" for each in message.markers))
    camera.pixels = np.roll(street.image, PATCH, axis=1)
    moved = locations.wait(
        lambda message: (
            message.objects[0].x - seen.objects[0].x == pytest.approx(PATCH, abs=PATCH / 4)
        )
    )
    assert moved.run_id == seen.run_id and moved.bundle_digest == followed.bundle_digest
    camera.pixels = np.full_like(street.image, 128)
    locations.wait(lambda m: {o.state for o in m.objects} == {LocatedObject.STATE_LOST})
    told = locations.all()
    assert [message.sequence for message in told] == list(range(len(told)))
    assert {each.id for message in told for each in message.objects} == set(ids)
    wait_until("a count", lambda: graph.values(NODE)["followed"] == "0")
    node.stop()


def test_a_camera_without_patches_loses_what_was_followed_alone_and_says_why(
    graph: Graph, street: Any
) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    node = graph.start(NODE, cameras="['front','rear']", rate_hz=0.2, niceness=0)
    front_seen = graph.listen(LocatedObjects, "front/locations", 10)
    rear_seen = graph.listen(LocatedObjects, "rear/locations", 10)
    graph.wait_active(NODE)
    front, rear = (
        EmbeddingCamera(graph, bundle, 10.0, name, on_demand=True, image=street.image)
        for name in ("front", "rear")
    )
    try:
        for name, seen in (("front", front_seen), ("rear", rear_seen)):
            wait_until("a frame", partial(_follows, graph, name))
            seen.wait(lambda message: message.objects[0].state == LocatedObject.STATE_FOUND)
        rear.patches = lambda frame: None
        starved = "the patch embeddings of a frame were requested but did not arrive on /rear"
        wait_until("the cause", lambda: starved in graph.status(NODE).message)
        rear_seen.wait(lambda m: {o.state for o in m.objects} == {LocatedObject.STATE_LOST})
        front_seen.clear()
        told = front_seen.wait()
        assert {each.state for each in told.objects} == {LocatedObject.STATE_FOUND}
    finally:
        front.close()
        rear.close()
    node.stop()


def test_what_cannot_be_located_is_told_in_a_sentence(graph: Graph, camera: Camera) -> None:
    camera.close()
    node = graph.start(NODE, input_timeout=1.0, niceness=0)
    graph.wait_active(NODE)
    assert "no frame" in locate(graph, "car").message
    for fields, sentence in (
        ({"phrase": ""}, "is empty"),
        ({"phrase": "x" * 1000}, "1000 characters"),
        ({"phrase": "a car\x07"}, "control characters"),
        ({"phrase": "the one on the left"}, "says where but not what"),
        ({"phrase": "car", "camera": "rear"}, "/rear/language_reasoner"),
        ({"phrase": "car", "method": "guess"}, "patch or model"),
    ):
        answer = locate(graph, **fields)
        assert not answer.success and sentence in answer.message, answer.message
        assert not answer.boxes and not answer.method and "\n" not in answer.message
    again = Camera(graph, camera.pixels)
    try:
        wait_until("a frame", lambda: locate(graph, "car").success)
        refused = Locate.Request(phrase="")
        client = graph.known_client(Locate, f"/{NODE}/locate", refused, AT_ONCE)
        asked = [client.call_async(Locate.Request(phrase="car")) for _ in range(AT_ONCE)]
        wait_until("all answers", lambda: all(each.done() for each in asked))
        messages = [each.result().message for each in asked]
        busy = f"busy: {WAITING} phrases are already waiting; ask again in a moment"
        assert set(messages) <= {"", busy} and messages.count("") >= 1
        locate(graph, "car", track=True)
        wait_until("a count", lambda: graph.values(NODE).get("followed", "0") != "0")
        assert graph.call(Trigger, f"/{NODE}/stop_following", Trigger.Request()).success
        wait_until("the end of it", lambda: graph.values(NODE)["followed"] == "0")
    finally:
        again.close()
    wait_until("the silence", lambda: "no embedding for" in locate(graph, "car").message)
    assert graph.transition(NODE, "deactivate")
    assert "not active" in locate(graph, "car").message
    node.stop()
