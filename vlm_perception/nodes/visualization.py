# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What people look at: the scene as markers for rviz and drawn onto its image."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from vlm_perception.nodes.conversions import bytes_of, header
from vlm_perception.perception.image_conversion import to_rgb
from vlm_perception.perception.overlay import draw_scene
from vlm_perception.types import Scene, Status

SHOWN_TAGS = 8
TEXT_HEIGHT_M = 0.08
TEXT_DISTANCE_M = 2.0
STATUS_COLOURS: dict[Status, tuple[float, float, float]] = {
    Status.OK: (1.0, 1.0, 1.0),
    Status.STALE_REASONING: (1.0, 0.7, 0.2),
    Status.NO_REASONING: (1.0, 0.7, 0.2),
    Status.NO_EMBEDDING: (1.0, 0.3, 0.3),
    Status.NO_CAMERA: (1.0, 0.3, 0.3),
    Status.DEGRADED: (1.0, 0.7, 0.2),
}


def scene_text(scene: Scene) -> str:
    """Write the scene in a few lines."""
    tags = "  ".join(f"{tag.label} {tag.score:.2f}" for tag in scene.tags[:SHOWN_TAGS])
    attributes = "  ".join(f"{item.name}: {item.value}" for item in scene.attributes)
    hazards = "hazards: " + ", ".join(scene.hazards) if scene.hazards else ""
    status = scene.status.name + (f": {scene.reason}" if scene.reason else "")
    return "\n".join(line for line in (status, hazards, tags, attributes, scene.caption) if line)


def markers(scene: Scene) -> Any:
    """Build a text two metres in front of the camera, in its optical frame (REP 103)."""
    marker = Marker(
        header=header(scene.stamp_ns, scene.frame_id),
        ns="scene",
        id=0,
        type=Marker.TEXT_VIEW_FACING,
        action=Marker.ADD,
        text=scene_text(scene),
    )
    marker.pose.position.z = TEXT_DISTANCE_M
    marker.pose.orientation.w = 1.0
    marker.scale.z = TEXT_HEIGHT_M
    marker.color.r, marker.color.g, marker.color.b = STATUS_COLOURS[scene.status]
    marker.color.a = 1.0
    marker.lifetime.sec = 1
    return MarkerArray(markers=[marker])


def overlay(message: Any, scene: Scene) -> Any:
    """Draw the scene onto its camera image.

    Raises:
        ImageError: The image cannot be read.
    """
    picture = draw_scene(to_rgb(message), scene)
    height, width = picture.shape[:2]
    return Image(
        header=header(scene.stamp_ns, scene.frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=bytes_of(picture),
    )
