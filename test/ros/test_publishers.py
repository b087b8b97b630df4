# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Why nothing arrives on a topic, and that too many publish on it: over real DDS."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from subprocess import Popen
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from support.ros_graph import BEST_EFFORT, Graph, wait_until

from vlm_perception.nodes.base.publishers import Advice, Publishers
from vlm_perception.nodes.base.throttled_warnings import ThrottledWarnings
from vlm_perception.nodes.io.images.image_subscription import COMPRESSED, RAW, ImageInput
from vlm_perception.nodes.io.qos import results, subscribe
from vlm_perception.nodes.io.reasoning_subscription import ReasoningInput

ADVICE = Advice("start it", "see its log", "another type", "stop one")
Join = Callable[..., Any]


@pytest.fixture
def join(graph: Graph) -> Iterator[Join]:
    """Make a node that is a participant of its own, as one in another process is."""
    stop = threading.Event()
    made: list[tuple[Context, Any, threading.Thread]] = []

    def make(kind: type, name: str) -> Any:
        context = Context()
        rclpy.init(context=context, domain_id=graph.domain)
        node = kind(name, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def spin() -> None:
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)
            executor.shutdown()

        thread = threading.Thread(target=spin)
        thread.start()
        made.append((context, node, thread))
        return node

    yield make
    stop.set()
    for context, node, thread in made:
        thread.join()
        node.destroy_node()
        context.try_shutdown()


@pytest.fixture
def reader(graph: Graph) -> Any:
    graph.node.warnings = ThrottledWarnings(graph.node.get_logger())  # type: ignore[attr-defined]
    return graph.node


@pytest.mark.parametrize(
    ("transport", "sent", "topic", "told"),
    [
        (RAW, CompressedImage, "image", "/driver publishes sensor_msgs/msg/CompressedImage there"),
        (COMPRESSED, Image, "image/compressed", "sensor_msgs/msg/CompressedImage is expected"),
        (RAW, CompressedImage, "image/compressed", "but /image/compressed has one"),
        (COMPRESSED, Image, "image", "but /image has one"),
    ],
)
def test_images_of_another_transport_are_told(
    reader: Any, join: Join, transport: str, sent: type, topic: str, told: str
) -> None:
    images = ImageInput(reader, transport, lambda _: None)
    assert "publishers: 0; start the camera" in images.silence(3.0)
    join(Node, "driver").create_publisher(sent, topic, BEST_EFFORT)
    said = wait_until("the cause", lambda: told in (text := images.silence(3.0)) and text)
    other = RAW if transport == COMPRESSED else COMPRESSED
    assert f"use image_transport:={other}" in said and said.startswith("no image for 3 s on /image")
    images.close()


def test_a_silent_publisher_hides_none_of_another_type(reader: Any, join: Join) -> None:
    images = ImageInput(reader, RAW, lambda _: None)
    join(Node, "silent").create_publisher(Image, "image", BEST_EFFORT)
    wait_until("the silent one", lambda: "publishers: 1 (/silent)" in images.silence(3.0))
    join(Node, "driver").create_publisher(CompressedImage, "image", BEST_EFFORT)
    told = "/driver publishes sensor_msgs/msg/CompressedImage there"
    wait_until("the other", lambda: told in images.silence(3.0))
    images.close()


def test_a_qos_that_does_not_fit_is_told_in_the_same_words(reader: Any, join: Join) -> None:
    profile = results()
    subscription = subscribe(reader, Image, "image", lambda _: None, profile)
    publishers = Publishers(reader, "/image", Image, profile, ADVICE)
    driver = join(Node, "driver")
    words = (
        "1 publisher(s) on /image (/driver) offer a QoS that is incompatible with this subscription"
    )
    for _ in range(3):
        offered = driver.create_publisher(Image, "image", BEST_EFFORT)
        said = wait_until("the cause", lambda: words in (text := publishers.cause()) and text)
        driver.destroy_publisher(offered)
        wait_until("its end", lambda: publishers.cause() == "publishers: 0; start it")
    assert "qos_overrides./image.subscription.reliability" in said
    warning = wait_until("a warning", lambda: reader.warnings.recent(60.0))
    assert reader.warnings.counts()["incompatible_qos"] >= 1
    assert warning.partition("offer")[2] == said.partition("offer")[2]
    reader.destroy_subscription(subscription)


def test_a_publisher_whose_node_waits_is_told_what_to_run(reader: Any, join: Join) -> None:
    encoder = join(LifecycleNode, "vision_encoder")
    encoder.create_lifecycle_publisher(Image, "embedding", 10)
    publishers = Publishers(reader, "/embedding", Image, results(), ADVICE)
    for act, told in (
        (lambda: None, "/vision_encoder is unconfigured: "),
        (encoder.trigger_configure, "`ros2 lifecycle set /vision_encoder activate`"),
        (encoder.trigger_activate, "publishers: 1 (/vision_encoder); see its log"),
    ):
        act()
        wait_until(told, lambda told=told: told in publishers.cause())
    publishers.close()


PUBLISHER = """
import time, rclpy
from vlm_perception.msg import SceneReasoning
from vlm_perception.nodes.io.qos import present
from vlm_perception.nodes.io.reasoning_subscription import LEASE_S
rclpy.init(domain_id={domain})
publisher = rclpy.create_node("language_reasoner").create_publisher(
    SceneReasoning, "reasoning", present(LEASE_S))
while publisher.get_subscription_count() < 2:
    time.sleep(0.01)
publisher.publish(SceneReasoning(run_id="a"))
time.sleep(60)
"""


def test_a_killed_reasoner_is_known_to_be_gone(graph: Graph, reader: Any) -> None:
    heard: list[str] = []
    reasonings = ReasoningInput(
        reader,
        lambda message: heard.append(message.run_id),
        lambda alive: heard.append("there" if alive else "gone"),
    )
    assert reasonings.tags_only() and "publishers: 0" in reasonings.cause()
    with Popen([sys.executable, "-c", PUBLISHER.format(domain=graph.domain)], cwd="/") as process:
        wait_until("a reasoning", lambda: set(heard) == {"there", "a"})
        time.sleep(1.0)
        assert "gone" not in heard, "it lives, though it says nothing"
        process.kill()
        # A rhythm is not known, and the graph believes for many seconds more that it is there.
        wait_until("its end", lambda: heard[-1] == "gone", timeout=5.0)
    assert "is gone or gets no CPU time" in reasonings.cause()
    assert not reasonings.tags_only()
    reasonings.close()


def test_two_cameras_are_told_at_once_and_a_killed_one_is_none(reader: Any, join: Join) -> None:
    publishers = Publishers(reader, "/image", Image, BEST_EFFORT, ADVICE)
    first, again = join(Node, "camera"), join(Node, "camera")
    first.create_publisher(Image, "image", BEST_EFFORT)
    assert not publishers.crowd()
    other = again.create_publisher(Image, "image", BEST_EFFORT)
    wait_until("both", lambda: reader.count_publishers("/image") == 2)
    assert not publishers.crowd(), "one of the same name may be what is left of a killed one"
    told = "2 publishers on /image (/camera, /camera)"
    wait_until(told, lambda: publishers.crowd(mixed=True).startswith(told))
    for sender in ("a", "a", "b", "b"):
        publishers.heard(sender)
    assert not publishers.crowd(), "one was started anew"
    publishers.heard("a")
    assert publishers.crowd().endswith("stop one")
    again.destroy_publisher(other)
    wait_until("one", lambda: not publishers.crowd())
    join(Node, "usb_cam").create_publisher(Image, "image", BEST_EFFORT)
    wait_until("another name", lambda: "(/camera, /usb_cam)" in publishers.crowd())
