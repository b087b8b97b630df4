# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What people look at: the scene as markers for rviz and drawn onto its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from visualization_msgs.msg import Marker, MarkerArray

from vlm_perception.messages.codec import header
from vlm_perception.messages.ros import ROS
from vlm_perception.perception.rendering.markers import (
    LIFETIME_S,
    NOTHING,
    Pinhole,
    Shape,
    scene_shapes,
)
from vlm_perception.perception.rendering.overlay import draw_scene
from vlm_perception.types import LocatedObjects, Scene


def pinhole(camera_info: Any, size: tuple[int, int]) -> Pinhole | None:
    """Read a CameraInfo for images of this size; None when it holds no calibration."""
    calibrated = (int(camera_info.width), int(camera_info.height))
    return Pinhole.calibrated(camera_info.k, calibrated, size)


def markers(
    scene: Scene, camera: Pinhole | None, depth: float, located: LocatedObjects | None = None
) -> Any:
    """Build the scene's text and boxes in the camera's optical frame; see scene_shapes."""
    stamped = header(scene.stamp_ns, scene.frame_id, ROS)
    shapes = scene_shapes(scene, camera, depth, located)
    built = [_marker(stamped, shape, Marker.ADD) for shape in shapes]
    return MarkerArray(markers=[_marker(stamped, NOTHING, Marker.DELETEALL), *built])


def _marker(stamped: Any, shape: Shape, action: int) -> Any:
    points = [Point(x=x, y=y, z=z) for x, y, z in shape.points]
    marker = Marker(header=stamped, ns=shape.namespace, id=shape.index, action=action)
    marker.pose.orientation.w = 1.0
    marker.color.r, marker.color.g, marker.color.b = shape.colour
    marker.color.a = 1.0
    marker.lifetime.sec = LIFETIME_S
    if shape.text:
        marker.type, marker.text = Marker.TEXT_VIEW_FACING, shape.text
        (marker.pose.position,) = points
        marker.scale.z = shape.size
    else:
        marker.type, marker.points = Marker.LINE_STRIP, points
        marker.scale.x = shape.size
    return marker


def overlay(pixels: NDArray[np.uint8], scene: Scene, located: LocatedObjects | None = None) -> Any:
    """Draw the scene onto its camera image, uint8 RGB [height, width, 3]; see draw_scene."""
    picture = draw_scene(pixels, scene, located)
    height, width = picture.shape[:2]
    return ROS["sensor_msgs/msg/Image"](
        header=header(scene.stamp_ns, scene.frame_id, ROS),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=picture,
    )
