# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The embedding topic: a subscription that hands messages on, and what to say when none come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.msg import VisionEmbedding
from vlm_perception.nodes.qos import newest, subscribe


class EmbeddingInput:
    """A subscription of `embedding`."""

    def __init__(self, node: Any, on_message: Callable[[Any], None]) -> None:
        """Subscribe; on_message is called in the executor's thread and must be quick."""
        self._node = node
        self._subscription = subscribe(
            node,
            VisionEmbedding,
            "embedding",
            on_message,
            newest(2),
        )

    @property
    def topic(self) -> str:
        """The topic's name after remapping."""
        return str(self._subscription.topic_name)

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Say that nothing came for so long, and what is probably the matter."""
        publishers = self._node.count_publishers(self.topic)
        said = f"no embedding for {seconds:.0f} s on {self.topic}, publishers: {publishers}"
        if publishers == 0:
            return f"{said}; start vision_encoder in this namespace, or remap `embedding`"
        return f"{said}; see what vision_encoder reports on /diagnostics"
