# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of those who talk to the nodes: a second camera, a foreign type, a QoS that fits none."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlm_perception.evaluation.chaos.testbed.faulty_camera import Camera
from vlm_perception.evaluation.chaos.testbed.finding import (
    SILENCE_S,
    Finding,
)
from vlm_perception.evaluation.chaos.testbed.outcome import overcome, reported_only
from vlm_perception.evaluation.chaos.testbed.stage import ENCODER, REASONER, Stage
from vlm_perception.rosgraph.participant import GraphMember

APART_NS = 1_500_000_000


def two_cameras(stage: Stage) -> Finding:
    """Let a second camera, whose clock is behind, publish on the same topic."""
    since = time.monotonic()
    with Camera(stage.participant) as second:
        second.keep_time_by(lambda: time.time_ns() - APART_NS)
        second.start()
        time.sleep(2 * SILENCE_S)
        back = time.monotonic()
    return reported_only(stage, "two cameras on one topic", since, back, ENCODER, "2 publishers")


def foreign_type(stage: Stage) -> Finding:
    """Replace the camera by one that publishes another type on its topic."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

    stage.camera.stop()
    since = time.monotonic()
    with _publishing(CompressedImage(format="jpeg", data=array("B", bytes(100))), "image"):
        diagnosis = stage.diagnosis(since, ENCODER, about="CompressedImage", within_s=10.0)
        back = time.monotonic()
    stage.camera.start()
    return overcome(
        stage,
        "another type on the camera's topic",
        since,
        back,
        seen=diagnosis.message if diagnosis else "the encoder does not name the type",
        ok=diagnosis is not None,
    )


def incompatible_qos(stage: Stage) -> Finding:
    """Publish instructions with best effort, where reliable is asked for."""
    from std_msgs.msg import String  # noqa: PLC0415

    since = time.monotonic()
    with _publishing(String(data="look"), "instruction", reliable=False):
        time.sleep(SILENCE_S)
        back = time.monotonic()
    name = "a publisher with incompatible QoS"
    return reported_only(stage, name, since, back, REASONER, "QoS")


@contextmanager
def _publishing(message: Any, topic: str, *, reliable: bool = True) -> Iterator[None]:
    """Let a stranger publish a message once, and stay.

    It needs a participant of its own: one process may not have two types on a topic.
    """
    from vlm_perception.nodes.io.qos import newest, results  # noqa: PLC0415

    with GraphMember("stranger") as member:
        profile = results() if reliable else newest(1)
        publisher = member.node.create_publisher(type(message), topic, profile)
        publisher.publish(message)
        yield
