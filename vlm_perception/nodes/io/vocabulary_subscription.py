# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Says which of the hazards the encoder's vocabulary has a label for, whenever it gets another."""

from __future__ import annotations

from typing import Any

from vlm_perception.msg import EmbeddingInfo
from vlm_perception.nodes.io.qos import latched, subscribe
from vlm_perception.perception.fusion.rules import Hazard, watched_labels

NAMED = 12
"""Of up to 512 labels, so many are named in the log."""


class VocabularyInput:
    """The topic embedding_info, as far as a reader of tags is concerned."""

    def __init__(self, node: Any, hazards: tuple[Hazard, ...]) -> None:
        """Subscribe for a node that reports these hazards."""
        self._node, self._hazards = node, hazards
        self._told: str | None = None
        self._subscription = subscribe(node, EmbeddingInfo, "embedding_info", self._tell, latched())

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _tell(self, info: EmbeddingInfo) -> None:
        sentence = watched_labels(self._hazards, info.vocabulary)
        if sentence == self._told:
            return
        self._told = sentence
        if sentence:
            self._node.get_logger().info(sentence)
        else:
            more = len(info.vocabulary) - NAMED
            names = ", ".join(info.vocabulary[:NAMED]) + (f" and {more} more" if more > 0 else "")
            self._node.get_logger().warning(
                f"no hazard is a label of bundle {info.bundle}, so that no tag is reported as one; "
                f"set the parameter hazards to some of {names}"
            )
