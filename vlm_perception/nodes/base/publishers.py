# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Who publishes on a topic that a node reads: why nothing arrives, and when too many do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

ASK_EVERY_S = 1.0
"""How often a silent publisher's node is asked for its state, and how long an answer counts."""
MIXED_S = 5.0
"""So long after two publishers were seen to take turns, they still do."""
GHOST_S = 25.0
"""The middleware takes a killed process for alive for up to 20 s."""
NAMELESS = "a node that has just started"
"""Names reach the graph somewhat later than topics."""
WAKING = {
    "unconfigured": "`ros2 lifecycle set {name} configure` and `activate`",
    "inactive": "`ros2 lifecycle set {name} activate`",
}
"""What to run when a node waits in a state."""


@dataclass(frozen=True)
class Advice:
    """What to do about a topic, by what is the matter with it."""

    absent: str
    """No publishers."""
    unheard: str
    """A publisher is there that fits, and nothing comes."""
    foreign: str
    """Who publishes has another type."""
    crowded: str
    """There is more than one."""


class Publishers:
    """The publishers of one topic, as the graph knows them."""

    def __init__(
        self, node: Any, topic: str, message_type: type, qos: QoSProfile, advice: Advice
    ) -> None:
        """Look at nothing yet.

        Args:
            node: who reads the topic.
            topic: its name after remapping.
            message_type: as which it is read.
            qos: with which it is read.
            advice: remedies.
        """
        self._node, self._topic, self._qos, self._advice = node, topic, qos, advice
        self._type = type_name(message_type)
        self._states: dict[str, _State] = {}
        self._senders = ("", "")
        self._mixed_s = float("-inf")
        self._crowded_since: float | None = None

    def close(self) -> None:
        """Stop asking."""
        while self._states:
            self._states.popitem()[1].close()

    def present(self) -> bool:
        """Whether anybody publishes."""
        return int(self._node.count_publishers(self._topic)) > 0

    def heard(self, sender: str) -> None:
        """Note who sent a message: a sender that comes back after another one takes turns."""
        newest, before = self._senders
        if sender != newest:
            if sender == before:
                self._mixed_s = time.monotonic()
            self._senders = (sender, newest)

    def cause(self) -> str:
        """Say why nothing arrives, with a remedy; for log, diagnostics and scene alike."""
        found = self._node.get_publishers_info_by_topic(self._topic)
        fitting = [each for each in found if each.topic_type == self._type]
        if not found:
            return f"publishers: 0; {self._advice.absent}"
        foreign = next((each for each in found if each.topic_type != self._type), None)
        return (
            misfit(self._topic, fitting, self._qos)
            or self._waiting(fitting)
            or (self._foreign(foreign) if foreign else "")
            or f"publishers: {len(fitting)} ({_names(fitting)}); {self._advice.unheard}"
        )

    def crowd(self, mixed: bool = False) -> str:
        """Say that several publish, with a remedy; empty: one does, or a killed one is remembered.

        Args:
            mixed: whether their messages were just seen to come out of order.
        """
        if self._node.count_publishers(self._topic) < 2:
            self._crowded_since = None
            return ""
        found = self._node.get_publishers_info_by_topic(self._topic)
        fitting = [each for each in found if each.topic_type == self._type]
        now = time.monotonic()
        self._crowded_since = self._crowded_since or now
        certain = (
            mixed
            or now - self._mixed_s < MIXED_S
            or now - self._crowded_since > GHOST_S
            or len({full_name(each) for each in fitting} - {NAMELESS}) > 1
        )
        if len(fitting) < 2 or not certain:
            return ""
        return (
            f"{len(fitting)} publishers on {self._topic} ({_names(fitting)}): their messages are "
            f"interleaved; {self._advice.crowded}"
        )

    def _foreign(self, other: Any) -> str:
        """Say that a publisher has another type, which is heard no more than a silent one."""
        return (
            f"{full_name(other)} publishes {other.topic_type} there, but {self._type} is expected; "
            f"{self._advice.foreign}"
        )

    def _waiting(self, fitting: Sequence[Any]) -> str:
        """Report that a publisher's node is waiting to be activated."""
        for each in fitting:
            if (name := full_name(each)) == NAMELESS:
                continue
            if name not in self._states:
                self._states[name] = _State(self._node, name)
            state = self._states[name].label()
            if state in WAKING:
                why = "see its log or /diagnostics, then " if state == "unconfigured" else ""
                return f"{name} is {state}: {why}run {WAKING[state].format(name=name)}"
        return ""


class _State:
    """The lifecycle state of another node, asked for without waiting."""

    def __init__(self, node: Any, name: str) -> None:
        self._node = node
        self._client = node.create_client(GetState, f"{name}/get_state")
        self._asked_s = self._answered_s = float("-inf")
        self._label = ""

    def close(self) -> None:
        self._node.destroy_client(self._client)

    def label(self) -> str:
        """Return the state's label; empty: not known, or the node has no lifecycle."""
        now = time.monotonic()
        if now - self._asked_s > ASK_EVERY_S and self._client.service_is_ready():
            self._asked_s = now
            self._client.call_async(GetState.Request()).add_done_callback(self._take)
        return self._label if now - self._answered_s <= 3.0 * ASK_EVERY_S else ""

    def _take(self, future: Any) -> None:
        if (answer := future.result()) is not None:
            self._label, self._answered_s = answer.current_state.label, time.monotonic()


def misfit(topic: str, infos: Sequence[Any], qos: QoSProfile) -> str:
    """Say that publishers offer a QoS that a subscription cannot take; empty: they all fit."""
    bad = [
        each
        for each in infos
        if qos_check_compatible(each.qos_profile, qos)[0] == QoSCompatibility.ERROR
    ]
    if not bad:
        return ""
    return f"{len(bad)} publisher(s) on {topic} ({_names(bad)}) {no_fit(topic)}"


def no_fit(topic: str) -> str:
    """Say what is the matter with a publisher whose QoS does not fit, and what to do."""
    return (
        "offer a QoS that is incompatible with this subscription, so nothing arrives from them; "
        f"set qos_overrides.{topic}.subscription.reliability to match, or the publisher's QoS"
    )


def type_name(message_type: type) -> str:
    """Return the ROS name of a message class, as sensor_msgs/msg/Image."""
    return f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"


def full_name(info: Any) -> str:
    """Return the name of the node that an endpoint belongs to."""
    if "UNKNOWN" in info.node_name:
        return NAMELESS
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _names(infos: Sequence[Any]) -> str:
    return ", ".join(sorted(full_name(each) for each in infos))
