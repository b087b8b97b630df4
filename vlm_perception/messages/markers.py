# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The scene's shapes to the markers that rviz and Foxglove draw, as rosbags writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_perception.messages.codec import header
from vlm_perception.messages.rosbags import ROSBAGS
from vlm_perception.perception.rendering.markers import LIFETIME_S, NOTHING, Shape, scene_shapes
from vlm_perception.types import Scene

MARKERS = "visualization_msgs/msg/MarkerArray"
# Of visualization_msgs/Marker.
ADD, DELETE_ALL = 0, 3
LINE_STRIP, TEXT_VIEW_FACING = 4, 9


def markers_message(scene: Scene) -> Any:
    """A MarkerArray of the scene, on the image plane of a camera that is guessed."""
    stamped = header(scene.stamp_ns, scene.frame_id, ROSBAGS)
    built = [_marker(stamped, shape, ADD) for shape in scene_shapes(scene, None)]
    return ROSBAGS[MARKERS](markers=[_marker(stamped, NOTHING, DELETE_ALL), *built])


def _marker(stamped: Any, shape: Shape, action: int) -> Any:
    points = [_point(*point) for point in shape.points]
    is_text = bool(shape.text)
    red, green, blue = shape.colour
    return ROSBAGS["visualization_msgs/msg/Marker"](
        header=stamped,
        ns=shape.namespace,
        id=shape.index,
        type=TEXT_VIEW_FACING if is_text else LINE_STRIP,
        action=action,
        pose=ROSBAGS["geometry_msgs/msg/Pose"](
            position=points[0] if is_text else _point(0.0, 0.0, 0.0),
            orientation=ROSBAGS["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        scale=ROSBAGS["geometry_msgs/msg/Vector3"](
            x=0.0 if is_text else shape.size,
            y=0.0,
            z=shape.size if is_text else 0.0,
        ),
        color=ROSBAGS["std_msgs/msg/ColorRGBA"](r=red, g=green, b=blue, a=1.0),
        lifetime=ROSBAGS["builtin_interfaces/msg/Duration"](sec=LIFETIME_S, nanosec=0),
        frame_locked=False,
        points=[] if is_text else points,
        colors=[],
        texture_resource="",
        texture=ROSBAGS["sensor_msgs/msg/CompressedImage"](
            header=header(0, "", ROSBAGS),
            format="",
            data=np.empty(0, np.uint8),
        ),
        uv_coordinates=[],
        text=shape.text,
        mesh_resource="",
        mesh_file=ROSBAGS["visualization_msgs/msg/MeshFile"](
            filename="", data=np.empty(0, np.uint8)
        ),
        mesh_use_embedded_materials=False,
    )


def _point(x: float, y: float, z: float) -> Any:
    return ROSBAGS["geometry_msgs/msg/Point"](x=x, y=y, z=z)
