# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The camera topic, raw or compressed, and what is wrong when nothing arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from vlm_perception.nodes.base.publishers import Advice, Publishers
from vlm_perception.nodes.io.qos import newest, subscribe

RAW = "raw"
COMPRESSED = "compressed"
SUFFIX = "/compressed"
LOST = (
    "if the publisher is alive, its large messages may be lost: start it with the Fast DDS profile "
    "in config/, or use image_transport:=compressed"
)


class ImageInput:
    """A subscription of `image` or `image/compressed` that only hands the message on."""

    def __init__(self, node: Any, transport: str, on_message: Callable[[Any], None]) -> None:
        """Subscribe; on_message is called in the executor's thread and must be quick."""
        self._node = node
        self._compressed = transport == COMPRESSED
        kind = CompressedImage if self._compressed else Image
        self._name = "image/compressed" if self._compressed else "image"
        self._subscription = subscribe(node, kind, self._name, on_message, newest(1))
        self.topic = str(self._subscription.topic_name)
        """The topic's name after remapping."""
        self.publishers = Publishers(
            node, self.topic, kind, self._subscription.qos_profile, self._advice()
        )

    def close(self) -> None:
        """End the subscription."""
        self.publishers.close()
        self._node.destroy_subscription(self._subscription)

    def silence(self, seconds: float) -> str:
        """Return that nothing arrived for this long, and why."""
        return f"no image for {seconds:.0f} s on {self.topic}: {self.cause()}"

    def cause(self) -> str:
        """Say why nothing comes; perhaps the camera sends by the other transport."""
        if not self.publishers.present():
            if self._compressed and self.topic.endswith(SUFFIX):
                other, transport = self.topic[: -len(SUFFIX)], RAW
            else:
                other, transport = self.topic + SUFFIX, COMPRESSED
            if self._node.count_publishers(other) > 0:
                return (
                    f"publishers: 0, but {other} has one; use image_transport:={transport} and "
                    "set it before the node is configured"
                )
        return self.publishers.cause()

    def _advice(self) -> Advice:
        use = f"use image_transport:={RAW if self._compressed else COMPRESSED}"
        topics = "`image`" if self._compressed else "`image/compressed`"
        return Advice(
            absent=f"start the camera or remap `{self._name}` to its topic",
            unheard="check that the camera is delivering images" if self._compressed else LOST,
            foreign=f"{use} with {topics} remapped to it, or give `{self._name}` a topic of "
            "that type",
            crowded="stop all but one, or give each camera its own namespace",
        )
