# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The reasoning topic: its messages, whether who publishes them lives, and why none come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.msg import SceneReasoning
from vlm_perception.nodes.base.publishers import Advice, Publishers
from vlm_perception.nodes.io.qos import results, subscribe, watch_presence

LEASE_S = 0.35
"""Within this time the middleware reports the death of language_reasoner."""
ADVICE = Advice(
    absent="start language_reasoner, or take the tags alone",
    unheard="see what language_reasoner reports on /diagnostics",
    foreign="remap `reasoning` to the topic of a language_reasoner of this version",
    crowded="stop all but one language_reasoner, or give each camera its own namespace",
)


class ReasoningInput:
    """The subscription of `reasoning`, and one that notices when its publisher dies."""

    def __init__(
        self, node: Any, on_message: Callable[[Any], None], on_presence: Callable[[bool], None]
    ) -> None:
        """Subscribe; both are called in the executor's thread and must be quick.

        Args:
            node: who reads.
            on_message: gets each reasoning.
            on_presence: gets whether anybody who publishes lives, when that changes.
        """
        self._node = node

        def take(message: Any) -> None:
            self._known, self._gone = True, False
            self.publishers.heard(message.run_id)
            on_message(message)

        profile = results()
        topic = str(node.resolve_topic_name("reasoning"))
        self.publishers = Publishers(node, topic, SceneReasoning, profile, ADVICE)
        self._known = self._gone = False
        self._topic = topic
        self._subscription = subscribe(node, SceneReasoning, "reasoning", take, profile)

        def changed(alive: bool) -> None:
            self._gone = not alive
            on_presence(alive)

        self._presence = watch_presence(node, SceneReasoning, "reasoning", changed, LEASE_S)

    def close(self) -> None:
        """End the subscription."""
        self.publishers.close()
        self._node.destroy_subscription(self._subscription)
        if self._presence is not None:
            self._node.destroy_subscription(self._presence)

    def cause(self) -> str:
        """Say why no reasoning comes."""
        if self._gone:
            return (
                f"the publisher of {self._topic} is gone or gets no CPU time; restart "
                "language_reasoner, or give it more CPU"
            )
        return f"on {self._topic} {self.publishers.cause()}"

    def tags_only(self) -> bool:
        """Whether reasonings were never offered: the graph runs without a language node."""
        self._known = self._known or self.publishers.present()
        return not self._known
