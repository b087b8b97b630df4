# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The embedding topic: passes embeddings on, and reports what is wrong when none arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vlm_perception.messages.codec import MessageError
from vlm_perception.messages.tables import EMBEDDING
from vlm_perception.msg import VisionEmbedding
from vlm_perception.nodes.base.publishers import Advice, Publishers
from vlm_perception.nodes.io import intra_process
from vlm_perception.nodes.io.qos import newest, subscribe
from vlm_perception.perception.fusion.ages import slow_encoder
from vlm_perception.types import Embedding


@dataclass(frozen=True)
class EmbeddingArrival:
    """An embedding that came, not looked at yet."""

    read: Callable[[], Embedding]
    """Returns it; raises MessageError where the message contradicts itself."""
    spent_s: float
    """From the image's arrival in the encoder to the embedding's publication, in seconds."""
    received_s: float
    """Monotonic time at which it came, in seconds."""


class EmbeddingInput:
    """The stream of `embedding`: from the encoder in this process, if it is here, else a topic."""

    def __init__(
        self, node: Any, on_arrival: Callable[[EmbeddingArrival], None], name: str = "embedding"
    ) -> None:
        """Subscribe; on_arrival is called in another node's thread and must be quick."""
        self._node = node
        self.topic = str(node.resolve_topic_name(name))
        """The topic's name after remapping."""
        self._subscription: Any = None
        self._end: Callable[[], None] = lambda: None
        self._spent_s = 0.0
        profile = newest(2)

        def take(read: Callable[[], Embedding], run_id: str, spent_s: float) -> None:
            self.publishers.heard(run_id)
            self._spent_s = spent_s
            on_arrival(EmbeddingArrival(read, spent_s, time.monotonic()))

        def take_message(message: Any) -> None:
            take(partial(EMBEDDING.read, message), message.run_id, message.processing_time)

        def take_object(embedding: Embedding, spent_s: float) -> None:
            take(partial(_sound, embedding), embedding.run_id, spent_s)

        advice = Advice(
            absent=f"start its vision_encoder, or remap `{name}`",
            unheard="see what vision_encoder reports on /diagnostics",
            foreign=f"remap `{name}` to the topic of a vision_encoder of this version",
            crowded="stop all but one vision_encoder, or give each camera its own namespace",
        )
        self.publishers = Publishers(node, self.topic, VisionEmbedding, profile, advice)
        if intra_process.is_offered(self.topic):
            self._end = intra_process.read(self.topic, take_object)
        else:
            self._subscription = subscribe(node, VisionEmbedding, name, take_message, profile)

    def close(self) -> None:
        """End the stream."""
        self._end()
        self.publishers.close()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Return that nothing arrived for this long, and why."""
        slow = slow_encoder(self._spent_s, seconds)
        return f"no embedding for {seconds:.0f} s{slow} on {self.topic}: {self.publishers.cause()}"


def _sound(embedding: Embedding) -> Embedding:
    """Refuse what a message that holds it would be refused for."""
    if not np.isfinite(embedding.pooled).all():
        raise MessageError("pooled contains NaN or infinity")
    return embedding
