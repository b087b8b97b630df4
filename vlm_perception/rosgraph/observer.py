# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Watch a running graph from outside, at the least cost to the machine that it runs on."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vlm_perception.messages.rosbags import stamp_of_serialized
from vlm_perception.messages.tables import SCENE as SCENES
from vlm_perception.rosgraph.participant import GraphMember
from vlm_perception.rosgraph.topic_meter import Arrival, Meter
from vlm_perception.rosgraph.topics import (
    DIAGNOSTICS,
    EMBEDDING_INFO,
    MARKERS,
    REASONING,
    SCENE,
    Topic,
)
from vlm_perception.types import Scene

Sink = Callable[[Topic, int, bytes], None]
"""Gets each message as it came: topic, time of arrival in nanoseconds, serialized bytes."""
_HEADERLESS = frozenset({EMBEDDING_INFO, MARKERS})


@dataclass(frozen=True)
class Analysis:
    """A reasoning message: whether it was worked out or repeated, and how long that took."""

    received_ns: int
    is_keyframe: bool
    milliseconds: float
    """What the reasoner was busy with it, without waiting for its tick; 0 for a repeat."""
    to_prefill_ms: float
    """From the embedding's arrival to the prefill, waiting for its tick included."""


@dataclass(frozen=True)
class Report:
    """A node's report on /diagnostics."""

    received_ns: int
    values: Mapping[str, str]

    def number(self, key: str) -> float | None:
        """The value as a number, where it is one."""
        try:
            return float(self.values[key])
        except (KeyError, ValueError):
            return None


class Observer:
    """Subscribes to topics as serialized bytes and decodes only what is read.

    A context manager; messages arrive on a thread of its own.
    """

    def __init__(
        self, topics: Sequence[Topic], sink: Sink | None = None, namespace: str = ""
    ) -> None:
        """Prepare; nothing is subscribed before the context is entered.

        Args:
            topics: What to watch.
            sink: Gets each message, too.
            namespace: Of the topics, and of the nodes whose reports are read; empty: any.
        """
        self._namespace = namespace
        self.meters = {topic: Meter() for topic in topics}
        self.analyses: list[Analysis] = []
        self.reports: dict[str, list[Report]] = {}
        self._sink = sink
        self._newest_scene = b""
        self._member = GraphMember("observer", namespace)

    def __enter__(self) -> Observer:
        """Join the graph."""
        self._member.__enter__()
        for topic in self.meters:
            self._subscribe(topic)
        self._member.spin_aside()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the graph."""
        self._member.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raise here what went wrong on the observer's thread."""
        self._member.check()

    def scene(self) -> Scene | None:
        """The newest scene, or nothing before the first."""
        data = self._newest_scene
        return SCENES.read(decode(SCENE, data)) if data else None

    def keyframes(self) -> int:
        """How many frames were worked out in full."""
        return sum(analysis.is_keyframe for analysis in self.analyses)

    def newest_report(self, node: str) -> Report | None:
        """A node's last report."""
        reports = self.reports.get(node)
        return reports[-1] if reports else None

    def _subscribe(self, topic: Topic) -> None:
        from rclpy.qos import (  # noqa: PLC0415
            QoSDurabilityPolicy,
            QoSProfile,
            QoSReliabilityPolicy,
        )

        profile = QoSProfile(
            depth=topic.depth,
            reliability=QoSReliabilityPolicy.RELIABLE
            if topic.reliable
            else QoSReliabilityPolicy.BEST_EFFORT,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
            if topic.latched
            else QoSDurabilityPolicy.VOLATILE,
        )

        def receive(data: bytes) -> None:
            self._receive(topic, time.time_ns(), data)

        self._member.node.create_subscription(
            _message_class(topic.type_name), topic.name, receive, profile, raw=True
        )

    def _receive(self, topic: Topic, now_ns: int, data: bytes) -> None:
        stamp = 0 if topic in _HEADERLESS else stamp_of_serialized(data)
        self.meters[topic].add(Arrival(now_ns, stamp, len(data)))
        if topic == SCENE:
            self._newest_scene = data
        elif topic == REASONING:
            self._note_analysis(now_ns, decode(topic, data))
        elif topic == DIAGNOSTICS:
            self._note_reports(now_ns, decode(topic, data))
        if self._sink is not None:
            self._sink(topic, now_ns, data)

    def _note_analysis(self, now_ns: int, message: Any) -> None:
        stages = {str(stage.name): float(stage.duration) for stage in message.stages}
        parts = ("tower", "prefill", "questions", "caption")
        analysed = sum(stages.get(name, 0.0) for name in parts)
        self.analyses.append(
            Analysis(
                now_ns,
                bool(message.is_keyframe),
                1e3 * stages.get("total", 0.0),
                1e3 * (float(message.processing_time) - analysed),
            )
        )

    def _note_reports(self, now_ns: int, message: Any) -> None:
        """Join the values of a node's statuses; their names begin with the node's."""
        joined: dict[str, dict[str, str]] = {}
        for status in message.status:
            space, _, node = str(status.name).split(":", maxsplit=1)[0].strip().rpartition("/")
            if self._namespace not in ("", space):
                continue
            values = joined.setdefault(node, {})
            values.update((str(value.key), str(value.value)) for value in status.values)
        for node, values in joined.items():
            self.reports.setdefault(node, []).append(Report(now_ns, values))


def _message_class(type_name: str) -> Any:
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def decode(topic: Topic, data: bytes) -> Any:
    """Make a message of its serialized bytes."""
    from rclpy.serialization import deserialize_message  # noqa: PLC0415

    return deserialize_message(data, _message_class(topic.type_name))
