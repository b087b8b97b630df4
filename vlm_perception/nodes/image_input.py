# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The camera topic, raw or compressed, and what to say when nothing comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from vlm_perception.nodes.qos import newest, subscribe

RAW = "raw"
COMPRESSED = "compressed"


class ImageInput:
    """A subscription of `image` or `image/compressed` that only hands the message on."""

    def __init__(self, node: Any, transport: str, on_message: Callable[[Any], None]) -> None:
        """Subscribe; on_message is called in the executor's thread and must be quick."""
        self._node = node
        self._transport = transport
        compressed = transport == COMPRESSED
        self._subscription = subscribe(
            node,
            CompressedImage if compressed else Image,
            "image/compressed" if compressed else "image",
            on_message,
            newest(1),
        )
        self.topic = str(self._subscription.topic_name)
        """The topic's name after remapping."""

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Say that nothing came for so long, and what is probably the matter."""
        publishers = self._node.count_publishers(self.topic)
        said = f"no image for {seconds:.0f} s on {self.topic}, publishers: {publishers}"
        if publishers == 0:
            return f"{said}; start the camera or remap `{self._name()}` to its topic"
        if self._transport == RAW:
            return (
                f"{said}; if the publisher is alive, its large messages may be lost: start it with "
                "the Fast DDS profile in config/, or use image_transport:=compressed"
            )
        return f"{said}; check that the camera delivers"

    def _name(self) -> str:
        return "image/compressed" if self._transport == COMPRESSED else "image"
