# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The three nodes behind one camera: ros2 launch vlm_perception perception.launch.py."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(get_package_share_directory("vlm_perception")) / "config"
NODES = ("vision_encoder", "language_reasoner", "scene_fusion")
RESPAWN_DELAY_S = 0.5
COMPOSITIONS = {"processes": NODES, "single": ("perception",)}

ARGUMENTS = (
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the camera, for example front."
    ),
    DeclareLaunchArgument(
        "bundle",
        default_value="",
        description="Model bundle: its name or its directory. Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="Topic of the raw camera image. The compressed one is <image>/compressed.",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="Which of the two to read. Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(CONFIG / "perception.yaml"),
        description="YAML file with the parameters of the nodes.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Take the time from /clock: for simulators and ros2 bag play --clock.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="true",
        choices=["true", "false"],
        description="Start a node again that has ended: after a crash, or when it was killed.",
    ),
    DeclareLaunchArgument(
        "composition",
        default_value="processes",
        choices=list(COMPOSITIONS),
        description="processes: each node in a process of its own. single: all three in one.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*dds_profile(), *ARGUMENTS, OpaqueFunction(function=nodes)])


def dds_profile() -> list[SetEnvironmentVariable]:
    """Fast DDS loses raw images with its defaults. A profile that the user set stays in force."""
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if any(name in os.environ for name in names):
        return []
    name = names[os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")]
    return [SetEnvironmentVariable(name, str(CONFIG / "fastdds.xml"))]


def nodes(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given = {name: value(name) for name in ("bundle", "image_transport") if value(name)}
    parameters = {"use_sim_time": value("use_sim_time") == "true", **given}
    return [
        Node(
            package="vlm_perception",
            executable=executable,
            namespace=value("namespace"),
            parameters=[value("params_file"), parameter_file(parameters)],
            remappings=[
                ("image", value("image")),
                ("image/compressed", f"{value('image')}/compressed"),
            ],
            output="screen",
            respawn=value("respawn") == "true",
            respawn_delay=RESPAWN_DELAY_S,
        )
        for executable in COMPOSITIONS[value("composition")]
    ]


def parameter_file(parameters: dict[str, object]) -> str:
    """Write parameters to a file that params_file cannot outdo by naming the nodes.

    launch_ros would write them for /**, and ROS goes by the order in which such names first occur.
    """
    content = {f"/**/{node}": {"ros__parameters": dict(parameters)} for node in NODES}
    with NamedTemporaryFile("w", prefix="vlm_perception_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(content, file)
    return file.name
