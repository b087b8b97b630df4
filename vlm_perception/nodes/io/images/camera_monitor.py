# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Listens to the camera only while that is of use: for the overlay, or to see whether it lives."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from sensor_msgs.msg import CameraInfo

from vlm_perception.messages.codec import stamp_ns
from vlm_perception.nodes.io.images.image_subscription import ImageInput
from vlm_perception.nodes.io.qos import newest, subscribe
from vlm_perception.nodes.io.shown.visualization_output import pinhole
from vlm_perception.perception.rendering.markers import Pinhole

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
        self._switch = threading.Lock()
        self._closed = False
        self._input: ImageInput | None = None
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._opened_s = self._arrived_s = float("-inf")
        self._calibrations: Any = None
        self._calibration: Any = None

    def calibrate(self, wanted: bool) -> None:
        """Start or stop to listen to the camera's calibration."""
        with self._switch:
            if wanted and self._calibrations is None and not self._closed:
                self._calibrations = subscribe(
                    self._node, CameraInfo, "camera_info", self._on_calibration, newest(1)
                )
            elif not wanted and self._calibrations is not None:
                self._node.destroy_subscription(self._calibrations)
                self._calibrations = None

    def pinhole(self, size: tuple[int, int]) -> Pinhole | None:
        """Return the calibrated camera for images of this size; None while there is none."""
        message = self._calibration
        return pinhole(message, size) if message is not None else None

    def listen(self, wanted: bool) -> None:
        """Start or stop to listen."""
        with self._switch:
            if wanted and self._input is None and not self._closed:
                self._opened_s = time.monotonic()
                self._input = ImageInput(self._node, self._transport, self._on_image)
            elif not wanted and self._input is not None:
                self._input.close()
                self._input = None
                with self._lock:
                    self._images.clear()

    def close(self) -> None:
        """Stop to listen for good."""
        self._closed = True
        self.listen(False)
        self.calibrate(False)

    def alive(self) -> bool:
        """Say whether images come; while that cannot be known yet, whether anybody offers them."""
        now, camera = time.monotonic(), self._input
        if now - self._arrived_s <= ALIVE_S:
            return True
        if camera is None or now - self._opened_s > ALIVE_S:
            return False
        return int(self._node.count_publishers(camera.topic)) > 0

    def cause(self) -> str:
        """Return why no image arrives; empty without a subscription."""
        camera = self._input
        return f"on {camera.topic} {camera.cause()}" if camera is not None else ""

    def image(self, stamp_ns: int) -> Any | None:
        """Return the image message with this stamp, if it is among the newest."""
        with self._lock:
            return self._images.get(stamp_ns)

    def _on_calibration(self, message: Any) -> None:
        self._calibration = message

    def _on_image(self, message: Any) -> None:
        self._arrived_s = time.monotonic()
        with self._lock:
            self._images[stamp_ns(message.header.stamp)] = message
            while len(self._images) > KEPT:
                self._images.popitem(last=False)
