# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Regions as vision_msgs, for whatever takes detections; where that package is installed."""

from __future__ import annotations

from typing import Any

from vlm_perception.messages.codec import header
from vlm_perception.messages.ros import ROS
from vlm_perception.nodes.io.qos import overridable, results
from vlm_perception.types import Region, Scene

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:  # It is not part of ROS's base.
    Detection2DArray = None

TOPIC = "scene/detections"


class DetectionOutput:
    """Publishes a scene's regions while there are subscribers."""

    def __init__(self, node: Any) -> None:
        """Advertise the topic, where there is a type for it."""
        self._publisher = None
        if Detection2DArray is not None:
            self._publisher = node.create_lifecycle_publisher(
                Detection2DArray, TOPIC, results(), qos_overriding_options=overridable()
            )

    def publish(self, scene: Scene) -> None:
        """Publish the regions of a scene that was just made of an image."""
        if self._publisher is not None and self._publisher.get_subscription_count() > 0:
            self._publisher.publish(detections(scene))


def detections(scene: Scene) -> Any:
    """Make a Detection2DArray: a box for each region, its label and score as the one hypothesis."""
    head = header(scene.stamp_ns, scene.frame_id, ROS)
    return Detection2DArray(
        header=head, detections=[_detection(region, head) for region in scene.regions]
    )


def _detection(region: Region, head: Any) -> Any:
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = region.label
    hypothesis.hypothesis.score = float(region.score)
    detection = Detection2D(header=head, results=[hypothesis])
    detection.bbox.center.position.x = region.x + region.width / 2
    detection.bbox.center.position.y = region.y + region.height / 2
    detection.bbox.size_x = float(region.width)
    detection.bbox.size_y = float(region.height)
    return detection
