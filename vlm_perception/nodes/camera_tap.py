# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Listens to the camera only while that is of use: for the overlay, or to see whether it lives."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from vlm_perception.nodes.conversions import stamp_to_ns
from vlm_perception.nodes.image_input import ImageInput

KEPT = 8
"""Images that wait for the scene that belongs to them."""
ALIVE_S = 1.0


class CameraTap:
    """The newest camera images by stamp, while wanted."""

    def __init__(self, node: Any, transport: str) -> None:
        """Do not listen yet."""
        self._node = node
        self._transport = transport
        self._lock = threading.Lock()
        self._input: ImageInput | None = None
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._opened_s = self._arrived_s = float("-inf")

    def listen(self, wanted: bool) -> None:
        """Start or stop to listen."""
        if wanted and self._input is None:
            self._opened_s = time.monotonic()
            self._input = ImageInput(self._node, self._transport, self._on_image)
        elif not wanted and self._input is not None:
            self._input.close()
            self._input = None
            with self._lock:
                self._images.clear()

    def alive(self) -> bool:
        """Say whether images come; while that cannot be known yet, whether anybody offers them."""
        now, camera = time.monotonic(), self._input
        if now - self._arrived_s <= ALIVE_S:
            return True
        if camera is None or now - self._opened_s > ALIVE_S:
            return False
        return int(self._node.count_publishers(camera.topic)) > 0

    def image(self, stamp_ns: int) -> Any | None:
        """Return the image message with this stamp, if it is among the newest."""
        with self._lock:
            return self._images.get(stamp_ns)

    def _on_image(self, message: Any) -> None:
        self._arrived_s = time.monotonic()
        with self._lock:
            self._images[stamp_to_ns(message.header.stamp)] = message
            while len(self._images) > KEPT:
                self._images.popitem(last=False)
