# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of those who talk to the nodes: a second camera, a foreign type, a QoS that fits none."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlm_perception.demo.member import GraphMember
from vlm_perception.evaluation.chaos.camera import Camera
from vlm_perception.evaluation.chaos.finding import (
    RECOVERED_WITHIN_S,
    SILENCE_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.outcome import overcome
from vlm_perception.evaluation.chaos.stage import ENCODER, REASONER, Stage
from vlm_perception.types import Status

APART_NS = 1_500_000_000
LOOKED_AT_WITHIN_S = 2.0
"""Who publishes on a topic is looked at now and then, not with each message."""


def two_cameras(stage: Stage) -> Finding:
    """Let a second camera, whose clock is behind, publish on the same topic."""
    since = time.monotonic()
    with Camera(stage.participant) as second:
        second.keep_time_by(lambda: time.time_ns() - APART_NS)
        second.start()
        time.sleep(2 * SILENCE_S)
        back = time.monotonic()
    return _told_only(stage, "two cameras on one topic", since, back, ENCODER, "2 publishers")


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
    name = "a publisher whose QoS does not fit"
    return _told_only(stage, name, since, back, REASONER, "QoS")


def _told_only(
    stage: Stage, name: str, since: float, back: float, node: str, about: str
) -> Finding:
    """Judge what a node must name on /diagnostics, and what must not disturb the scene for long."""
    diagnosis = stage.diagnosis(since, node, about=about)
    diagnosed = diagnosis.at_s - since if diagnosis else None
    well = stage.well_again(back)
    recovered = well.at_s - back if well else None
    bad = any(s.status is not Status.OK for s in stage.participant.between(since, back))
    return Finding(
        name,
        diagnosis.message if diagnosis else f"{node} does not tell of {about}",
        stage.noticed(since) if bad else None,
        recovered,
        0,
        within(diagnosed, LOOKED_AT_WITHIN_S) and within(recovered, RECOVERED_WITHIN_S),
        diagnosed,
    )


@contextmanager
def _publishing(message: Any, topic: str, *, reliable: bool = True) -> Iterator[None]:
    """Let a stranger publish a message once, and stay.

    It needs a participant of its own: one process may not have two types on a topic.
    """
    from vlm_perception.nodes.qos import newest, results  # noqa: PLC0415

    with GraphMember("stranger") as member:
        profile = results() if reliable else newest(1)
        publisher = member.node.create_publisher(type(message), topic, profile)
        publisher.publish(message)
        yield
