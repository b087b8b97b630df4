# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A video instead of each camera, and the nodes behind it. Ends with the first video that ends."""

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from vlm_perception.nodes.launch.actions import end_of_all, parameter_file, with_arguments
from vlm_perception.nodes.launch.arguments import DEMO, PERCEPTION, camera_namespaces

LAUNCH = Path(get_package_share_directory("vlm_perception")) / "launch"

ROADWORLD_SEED = 7


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(with_arguments(__file__, [*DEMO, *PERCEPTION], everything))


def everything(_: LaunchContext, values: dict[str, Any]) -> list[IncludeLaunchDescription | Node]:
    """The nodes, and a source for each camera; the road worlds of several cameras differ."""
    # First: it sets the DDS profile, which the publisher of the images needs most of all.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "perception.launch.py"))
    )
    spaces = enumerate(camera_namespaces(values))
    return [perception, *(source(space, ROADWORLD_SEED + i, values) for i, space in spaces)]


def source(namespace: str, seed: int, values: dict[str, Any]) -> Node:
    parameters = {
        **{name: values[name] for name in ("source", "rate_hz", "loop", "duration_s")},
        "transport": values["image_transport"],
        "seed": seed,
        "wait_for_subscriber_s": 30.0,
        # vision_encoder and scene_fusion; the first of them alone would miss images.
        "wait_for_subscribers": 2,
    }
    image = values["image"]
    return Node(
        package="vlm_perception",
        executable="video_source",
        namespace=namespace,
        parameters=[parameter_file({"/**/video_source": parameters})],
        remappings=[("image", image), ("image/compressed", f"{image}/compressed")],
        output="screen",
        on_exit=end_of_all("the video"),
    )
