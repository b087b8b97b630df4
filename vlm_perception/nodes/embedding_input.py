# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The embedding topic: a subscription that hands messages on, and what to say when none come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_perception.msg import VisionEmbedding
from vlm_perception.nodes import handover
from vlm_perception.nodes.publishers import Advice, Publishers
from vlm_perception.nodes.qos import newest, subscribe


class EmbeddingInput:
    """The stream of `embedding`: from the encoder in this process, if it is here, else a topic."""

    def __init__(
        self, node: Any, on_message: Callable[[Any], None], name: str = "embedding"
    ) -> None:
        """Subscribe; on_message is called in another node's thread and must be quick."""
        self._node = node
        self.topic = str(node.resolve_topic_name(name))
        """The topic's name after remapping."""
        self._subscription: Any = None
        self._end: Callable[[], None] = lambda: None
        profile = newest(2)

        def take(message: Any) -> None:
            self.publishers.heard(message.run_id)
            on_message(message)

        advice = Advice(
            absent=f"start its vision_encoder, or remap `{name}`",
            unheard="see what vision_encoder reports on /diagnostics",
            foreign=f"remap `{name}` to the topic of a vision_encoder of this version",
            crowded="stop all but one vision_encoder, or give each camera a namespace of its own",
        )
        self.publishers = Publishers(node, self.topic, VisionEmbedding, profile, advice)
        if handover.is_offered(self.topic):
            self._end = handover.read(self.topic, take)
        else:
            self._subscription = subscribe(node, VisionEmbedding, name, take, profile)

    def close(self) -> None:
        """End the stream."""
        self._end()
        self.publishers.close()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Say that nothing came for so long, and what is the matter."""
        return f"no embedding for {seconds:.0f} s on {self.topic}: {self.publishers.cause()}"
