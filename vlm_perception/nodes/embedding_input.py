# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The embedding topic: a subscription that hands messages on, and what to say when none come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.msg import VisionEmbedding
from vlm_perception.nodes import handover
from vlm_perception.nodes.qos import newest, subscribe


class EmbeddingInput:
    """The stream of `embedding`: from the encoder in this process, if it is here, else a topic."""

    def __init__(
        self, node: Any, on_message: Callable[[Any], None], name: str = "embedding"
    ) -> None:
        """Subscribe; on_message is called in another node's thread and must be quick."""
        self._node, self._name = node, name
        self.topic = str(node.resolve_topic_name(name))
        """The topic's name after remapping."""
        self._subscription: Any = None
        self._end: Callable[[], None] = lambda: None
        if handover.is_offered(self.topic):
            self._end = handover.read(self.topic, on_message)
        else:
            self._subscription = subscribe(node, VisionEmbedding, name, on_message, newest(2))

    def close(self) -> None:
        """End the stream."""
        self._end()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Say that nothing came for so long, and what is probably the matter."""
        publishers = self._node.count_publishers(self.topic)
        said = f"no embedding for {seconds:.0f} s on {self.topic}, publishers: {publishers}"
        if publishers == 0:
            return f"{said}; start its vision_encoder, or remap `{self._name}`"
        return f"{said}; see what vision_encoder reports on /diagnostics"
