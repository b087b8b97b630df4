# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service of each topic, and the events that report an incompatible peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from vlm_perception.nodes.base.publishers import misfit, no_fit, type_name
from vlm_perception.nodes.process.errors import guarded

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


def newest(depth: int) -> QoSProfile:
    """Best effort, the last few: for streams where only the newest message is of use."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=QoSReliabilityPolicy.BEST_EFFORT,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def results(depth: int = 10) -> QoSProfile:
    """Reliable, the last ten: for results of which a slow recorder must lose none."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.VOLATILE,
    )


def requests() -> QoSProfile:
    """For services: deep enough that each request gets an answer; the default drops all but ten."""
    return results(1000)


def watched(lease_s: float, depth: int = 10) -> QoSProfile:
    """As results; subscribers that request liveliness learn of a silence as long as the lease.

    Each message asserts liveliness. With AUTOMATIC, the middleware's own thread would assert it for
    a node that hangs or was deactivated.
    """
    profile = results(depth)
    profile.liveliness = QoSLivelinessPolicy.MANUAL_BY_TOPIC
    profile.liveliness_lease_duration = Duration(nanoseconds=round(lease_s * 1e9))
    return profile


def present(lease_s: float) -> QoSProfile:
    """As results; subscribers that request liveliness learn within the lease of a dead process.

    The middleware's own thread gives the signs of life, so that they do not hang on how often
    something is published.
    """
    profile = results()
    profile.liveliness = QoSLivelinessPolicy.AUTOMATIC
    profile.liveliness_lease_duration = Duration(nanoseconds=round(lease_s * 1e9))
    return profile


def latched() -> QoSProfile:
    """Reliable, and the last message is sent to late joiners."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


def overridable() -> QoSOverridingOptions:
    """Let parameters named qos_overrides.<topic>.<publisher|subscription>.<policy> override it."""
    return QoSOverridingOptions.with_default_policies()


def subscribe(
    node: Any,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    profile: QoSProfile,
) -> Any:
    """Subscribe with overridable QoS; an incompatible publisher causes a warning.

    A middleware without that event (rmw_zenoh) gets the subscription without it.
    """
    name, callback = node.resolve_topic_name(topic), guarded(node, callback)

    def incompatible(_: Any) -> None:
        found = node.get_publishers_info_by_topic(name)
        fitting = [each for each in found if each.topic_type == type_name(message_type)]
        # The event's own count is of all that ever were, and it may come before the graph knows.
        sentence = misfit(name, fitting, profile) or f"a publisher on {name}: {no_fit(name)}"
        node.warnings.add("incompatible_qos", sentence)

    try:
        return node.create_subscription(
            message_type,
            topic,
            callback,
            profile,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
            qos_overriding_options=overridable(),
        )
    except UnsupportedEventTypeError:
        return node.create_subscription(
            message_type, topic, callback, profile, qos_overriding_options=overridable()
        )


def watch_presence(
    node: Any, message_type: type, topic: str, on_change: Callable[[bool], None], lease_s: float
) -> Any | None:
    """Hear when a publisher that offers such a lease is there, and when none is any more.

    None is returned if the middleware does not support it.

    A subscription beside the one that reads: one that asks for a lease would get nothing from a
    publisher that offers none, as when an older bag is played.
    """
    profile = present(lease_s)
    profile.reliability, profile.depth = QoSReliabilityPolicy.BEST_EFFORT, 1

    def changed(event: Any) -> None:
        if event.alive_count_change:
            on_change(event.alive_count > 0)

    events = SubscriptionEventCallbacks(liveliness=changed, incompatible_qos=lambda _: None)
    try:
        return node.create_subscription(
            message_type, topic, lambda _: None, profile, event_callbacks=events, raw=True
        )
    except UnsupportedEventTypeError:
        return None


def subscribe_alive(
    node: Any,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    on_liveliness: Callable[[Any], None],
    lease_s: float,
) -> Any:
    """Subscribe, and hear when nothing was published for as long as the lease."""
    return node.create_subscription(
        message_type,
        topic,
        callback,
        watched(lease_s, depth=100),
        event_callbacks=SubscriptionEventCallbacks(liveliness=on_liveliness),
    )
