# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What people look at: the scene as markers for rviz and drawn onto its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import Point
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from vlm_perception.nodes.conversions import bytes_of, header
from vlm_perception.perception.image_conversion import to_rgb
from vlm_perception.perception.overlay import draw_scene
from vlm_perception.types import Scene, Status

SHOWN_TAGS = 8
TEXT_HEIGHT, LINE_WIDTH = 0.03, 0.004
"""In depths, so that they look the same at any."""
REGION_COLOUR, HAZARD_COLOUR = (0.33, 0.75, 1.0), (1.0, 0.3, 0.3)
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


@dataclass(frozen=True)
class Pinhole:
    """Where a pixel looks to: focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_camera_info(cls, message: Any, size: tuple[int, int]) -> Pinhole | None:
        """Read a CameraInfo for images of this size; None when it holds no calibration.

        Boxes are pixels of the image as it came, so the camera matrix of the raw image counts, K;
        its distortion is left out.
        """
        fx, fy, cx, cy = (float(message.k[place]) for place in (0, 4, 2, 5))
        if not (fx > 0 and fy > 0 and message.width and message.height):
            return None
        across, down = size[0] / message.width, size[1] / message.height
        return cls(fx * across, fy * down, cx * across, cy * down)

    @classmethod
    def of_image(cls, size: tuple[int, int]) -> Pinhole:
        """Guess a camera for an image of this size: 53 degrees wide, looking at its middle."""
        width, height = size
        return cls(width, width, width / 2, height / 2)

    def point(self, u: float, v: float, depth: float) -> Any:
        """Return the point of a pixel at this depth in the optical frame (REP 103), in metres."""
        return Point(x=(u - self.cx) / self.fx * depth, y=(v - self.cy) / self.fy * depth, z=depth)


def markers(scene: Scene, camera: Pinhole | None, depth: float) -> Any:
    """Build the scene's text and a box for each region, in the camera's optical frame.

    Args:
        scene: what is shown.
        camera: places the pixels; guessed where it is None.
        depth: distance in metres of the plane on which everything stands.
    """
    camera = camera or Pinhole.of_image(scene.image_size)
    stamped = header(scene.stamp_ns, scene.frame_id)
    height = depth * TEXT_HEIGHT
    text = _marker(stamped, "scene", 0, Marker.TEXT_VIEW_FACING, STATUS_COLOURS[scene.status])
    text.text = scene_text(scene)
    text.pose.position = camera.point(camera.cx, 0, depth)
    text.scale.z = height
    built = [Marker(header=stamped, action=Marker.DELETEALL), text]
    for index, region in enumerate(scene.regions):
        colour = HAZARD_COLOUR if region.label in scene.hazards else REGION_COLOUR
        left, top, right, bottom = (
            region.x,
            region.y,
            region.x + region.width,
            region.y + region.height,
        )
        box = _marker(stamped, "regions", index, Marker.LINE_STRIP, colour)
        box.scale.x = depth * LINE_WIDTH
        corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
        box.points = [camera.point(u, v, depth) for u, v in corners]
        name = _marker(stamped, "labels", index, Marker.TEXT_VIEW_FACING, colour)
        name.text = f"{region.label} {region.score:.2f}"
        name.pose.position = camera.point((left + right) / 2, top, depth)
        name.scale.z = height
        built += [box, name]
    return MarkerArray(markers=built)


def _marker(
    stamped: Any, namespace: str, index: int, kind: int, colour: tuple[float, float, float]
) -> Any:
    marker = Marker(header=stamped, ns=namespace, id=index, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.color.r, marker.color.g, marker.color.b = colour
    marker.color.a = 1.0
    marker.lifetime.sec = 1
    return marker


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
