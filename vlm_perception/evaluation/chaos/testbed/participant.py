# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What takes part in the graph beside the nodes: it watches the scene and acts for others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from vlm_perception.rosgraph.participant import GraphMember
from vlm_perception.types import Status

LEASE_S = 0.4
"""As scene_fusion offers it."""


@dataclass(frozen=True)
class Seen:
    """A scene that arrived."""

    at_s: float
    """Monotonic time of its arrival."""
    stamp_ns: int
    status: Status
    reason: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Report:
    """A node's report on /diagnostics."""

    at_s: float
    level: int
    """0 is OK, as in DiagnosticStatus."""
    message: str
    values: dict[str, str] = field(default_factory=dict)


class Participant:
    """A ROS node of its own that keeps all scenes and reports; a context manager."""

    def __init__(self) -> None:
        """Prepare; the graph is joined when the context is entered."""
        self.scenes: list[Seen] = []
        self.silenced: list[float] = []
        """When the scene's publisher stopped to show that it lives."""
        self.reports: dict[str, list[Report]] = {}
        self._member = GraphMember("chaos")

    def __enter__(self) -> Participant:
        """Join the graph."""
        from diagnostic_msgs.msg import DiagnosticArray  # noqa: PLC0415

        from vlm_perception.msg import SemanticScene  # noqa: PLC0415
        from vlm_perception.nodes.io.qos import subscribe_alive  # noqa: PLC0415

        self._node = self._member.__enter__().node
        subscribe_alive(
            self._node, SemanticScene, "scene", self._on_scene, self._on_liveliness, LEASE_S
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 100)
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
        """Raise here what went wrong on the participant's thread."""
        self._member.check()

    def publisher(self, message_type: type, topic: str, profile: Any) -> Any:
        """Make a publisher, of messages or of bytes."""
        return self._node.create_publisher(message_type, topic, profile)

    def remove(self, publisher: Any) -> None:
        """Take a publisher away."""
        self._node.destroy_publisher(publisher)

    def parameter_answer_s(self, node: str, timeout_s: float = 5.0) -> float | None:
        """Return how long a node takes to list its parameters; None if it does not."""
        from rcl_interfaces.srv import ListParameters  # noqa: PLC0415

        client: Any = self._node.create_client(ListParameters, f"{node}/list_parameters")
        try:
            if not client.wait_for_service(timeout_s):
                return None
            asked = time.monotonic()
            future = client.call_async(ListParameters.Request())
            answered = wait(future.done, timeout_s)
            return time.monotonic() - asked if answered else None
        finally:
            self._node.destroy_client(client)

    def first_scene(
        self, wanted: Callable[[Seen], bool], since_s: float, within_s: float
    ) -> Seen | None:
        """Wait for the first scene after a time that is wanted; None if none comes in time."""
        found: Seen | None = wait(
            lambda: next((s for s in self._since(since_s) if wanted(s)), None),
            since_s + within_s - time.monotonic(),
        )
        return found

    def between(self, start_s: float, end_s: float) -> list[Seen]:
        """Return the scenes that arrived within a time."""
        return [scene for scene in self._since(start_s) if scene.at_s <= end_s]

    def newest_report(self, node: str) -> Report | None:
        """Return a node's last report."""
        reports = self.reports.get(node)
        return reports[-1] if reports else None

    def active_since(self, node: str, since_s: float, within_s: float) -> float | None:
        """Wait until a node reports that it is active, and return when it did."""

        def told() -> float | None:
            return next(
                (
                    report.at_s
                    for report in list(self.reports.get(node, []))
                    if report.at_s > since_s and report.values.get("state") == "active"
                ),
                None,
            )

        at_s: float | None = wait(told, since_s + within_s - time.monotonic())
        return at_s

    def _since(self, since_s: float) -> list[Seen]:
        found = []
        for scene in reversed(self.scenes):
            if scene.at_s <= since_s:
                break
            found.append(scene)
        return found[::-1]

    def _on_scene(self, message: Any) -> None:
        stamp = message.header.stamp
        self.scenes.append(
            Seen(
                time.monotonic(),
                int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec),
                Status(message.status),
                str(message.reason),
                (int(message.image_width), int(message.image_height)),
            )
        )

    def _on_liveliness(self, event: Any) -> None:
        if event.alive_count_change < 0 or event.not_alive_count_change > 0:
            self.silenced.append(time.monotonic())

    def _on_report(self, message: Any) -> None:
        for status in message.status:
            node = str(status.name).split(":", maxsplit=1)[0].strip("/")
            values = {str(item.key): str(item.value) for item in status.values}
            report = Report(time.monotonic(), status.level[0], str(status.message), values)
            self.reports.setdefault(node, []).append(report)


def wait(condition: Callable[[], Any], timeout_s: float) -> Any:
    """Wait for something that is neither None nor False and return it; None if it is too late."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)
