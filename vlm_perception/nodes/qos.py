# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service of each topic, and the events that tell of an incompatible peer."""

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
    """For services: so many at once that each is told yes or no; the default drops all but ten."""
    return results(1000)


def watched(lease_s: float, depth: int = 10) -> QoSProfile:
    """As results, and whoever asks for liveliness learns of a silence as long as the lease.

    Each message is a sign of life. With AUTOMATIC, the middleware's own thread would give one for
    a node that hangs or was deactivated.
    """
    profile = results(depth)
    profile.liveliness = QoSLivelinessPolicy.MANUAL_BY_TOPIC
    profile.liveliness_lease_duration = Duration(nanoseconds=round(lease_s * 1e9))
    return profile


def latched() -> QoSProfile:
    """Reliable, and the last message is sent to whoever joins later."""
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
    """Subscribe with overridable QoS; a publisher that does not match is complained of.

    A middleware without that event (rmw_zenoh) gets the subscription without it.
    """
    name = node.resolve_topic_name(topic)

    def incompatible(event: Any) -> None:
        node.complaints.add(
            "incompatible_qos",
            f"{event.total_count} publisher(s) on {name} offer a QoS that this subscription cannot "
            f"take, nothing comes from them; set qos_overrides.{name}.subscription.reliability to "
            "match, or the publisher's QoS",
        )

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
