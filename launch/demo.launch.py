# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A video instead of each camera, and the nodes behind it. Ends with the first video that ends."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from vlm_perception.nodes.camera_names import check_camera_names

LAUNCH = Path(get_package_share_directory("vlm_perception")) / "launch"

ROADWORLD_SEED = 7

ARGUMENTS = (
    DeclareLaunchArgument(
        "source",
        default_value="roadworld",
        description="A video file, a folder of images, a webcam's index, or roadworld.",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="compressed",
        choices=["raw", "compressed"],
        description="How the images travel to the nodes.",
    ),
    DeclareLaunchArgument("rate_hz", default_value="30.0", description="Images a second."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Begin again."
    ),
    DeclareLaunchArgument(
        "duration_s", default_value="0.0", description="End after so long; 0: with the video."
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the camera."),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Several cameras, as `front rear`: each in its namespace, with a video.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    # First: it sets the DDS profile, which the publisher of the images needs most of all.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "perception.launch.py"))
    )
    return LaunchDescription([*ARGUMENTS, perception, OpaqueFunction(function=sources)])


def sources(context: LaunchContext) -> list[Node]:
    """One for each camera; the road worlds of several cameras differ."""
    space = LaunchConfiguration("namespace").perform(context).rstrip("/")
    cameras = LaunchConfiguration("cameras").perform(context).split()
    check_camera_names(cameras)
    within = f"{space}/" if space else ""
    spaces = [within + camera for camera in cameras]
    return [source(each, ROADWORLD_SEED + i) for i, each in enumerate(spaces or [space])]


def source(namespace: str, seed: int) -> Node:
    return Node(
        package="vlm_perception",
        executable="video_source",
        namespace=namespace,
        parameters=[
            {
                "source": ParameterValue(LaunchConfiguration("source"), value_type=str),
                "transport": LaunchConfiguration("image_transport"),
                "rate_hz": ParameterValue(LaunchConfiguration("rate_hz"), value_type=float),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "duration_s": ParameterValue(LaunchConfiguration("duration_s"), value_type=float),
                "seed": seed,
                "wait_for_subscriber_s": 30.0,
            }
        ],
        output="screen",
        on_exit=Shutdown(reason="the video ended"),
    )
