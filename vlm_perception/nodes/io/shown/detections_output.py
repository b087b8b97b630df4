# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Regions and followed objects as vision_msgs, where that package is installed."""

from __future__ import annotations

from typing import Any

from vlm_perception.messages.codec import header
from vlm_perception.messages.ros import ROS
from vlm_perception.nodes.io.qos import overridable, results
from vlm_perception.types import Followed, LocatedObjects, Scene

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:  # It is not part of ROS's base.
    Detection2DArray = None

TOPIC = "scene/detections"


class DetectionOutput:
    """Publishes a scene's regions and what is followed while there are subscribers."""

    def __init__(self, node: Any) -> None:
        """Advertise the topic, where there is a type for it."""
        self._publisher = None
        if Detection2DArray is not None:
            self._publisher = node.create_lifecycle_publisher(
                Detection2DArray, TOPIC, results(), qos_overriding_options=overridable()
            )

    def publish(self, scene: Scene, located: LocatedObjects | None) -> None:
        """Publish the boxes of a scene that was just made of an image."""
        if self._publisher is not None and self._publisher.get_subscription_count() > 0:
            self._publisher.publish(detections(scene, located))


def detections(scene: Scene, located: LocatedObjects | None = None) -> Any:
    """Make a Detection2DArray: a box for each region and each followed object.

    The one hypothesis of a box is its label or phrase with the score. A followed object has an id,
    and the stamp of the image in which it was found, which may be earlier than the scene's.
    """
    head = header(scene.stamp_ns, scene.frame_id, ROS)
    found = [
        _detection(each.label, each.score, (each.x, each.y, each.width, each.height), head)
        for each in scene.regions
    ]
    if located is not None:
        found += _followed(located)
    return Detection2DArray(header=head, detections=found)


def _followed(located: LocatedObjects) -> list[Any]:
    """Those that are in the image."""
    head, found = header(located.stamp_ns, located.frame_id, ROS), []
    for each in located.objects:
        if each.state is Followed.FOUND:
            box = each.box
            place = (box.x, box.y, box.width, box.height)
            detection = _detection(each.phrase, box.score, place, head)
            detection.id = str(each.id)
            found.append(detection)
    return found


def _detection(name: str, score: float, place: tuple[float, float, float, float], head: Any) -> Any:
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = name
    hypothesis.hypothesis.score = float(score)
    detection = Detection2D(header=head, results=[hypothesis])
    x, y, width, height = place
    detection.bbox.center.position.x = x + width / 2
    detection.bbox.center.position.y = y + height / 2
    detection.bbox.size_x = float(width)
    detection.bbox.size_y = float(height)
    return detection
