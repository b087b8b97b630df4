# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes behind one camera or several: ros2 launch vlm_perception perception.launch.py.

With `cameras:="front rear"` each camera has vision_encoder and scene_fusion in its namespace, and
one language_reasoner serves them all in turn.
"""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vlm_perception.nodes.camera_names import check_camera_names

CONFIG = Path(get_package_share_directory("vlm_perception")) / "config"
NODES = ("vision_encoder", "language_reasoner", "scene_fusion")
RESPAWN_DELAY_S = 0.5
PROCESSES, SINGLE = "processes", "single"

ARGUMENTS = (
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the camera, for example front."
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Several cameras, as `front rear`: each is a namespace within `namespace`, and "
        "one language_reasoner in `namespace` serves them in turn. Empty: one camera.",
    ),
    DeclareLaunchArgument(
        "bundle",
        default_value="",
        description="Model bundle: its name or its directory. Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="Topic of the raw camera image; the compressed one is <image>/compressed. With "
        "several cameras it is relative to the namespace of each.",
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
        choices=[PROCESSES, SINGLE],
        description="processes: each node in a process of its own. single: all of them in one.",
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
    cameras = camera_names(value("cameras"), value("image"))
    parameters = parameter_file(
        {"use_sim_time": value("use_sim_time") == "true", **given},
        {"cameras": cameras} if cameras else {},
    )
    return [
        Node(
            package="vlm_perception",
            executable=executable,
            namespace=namespace,
            parameters=[value("params_file"), parameters],
            remappings=[
                ("image", value("image")),
                ("image/compressed", f"{value('image')}/compressed"),
                ("camera_info", beside(value("image"), "camera_info")),
            ],
            output="screen",
            respawn=value("respawn") == "true",
            respawn_delay=RESPAWN_DELAY_S,
        )
        for executable, namespace in processes(
            value("composition"), value("namespace").rstrip("/"), cameras
        )
    ]


def beside(topic: str, name: str) -> str:
    """The topic of that name beside another, as cameras publish their calibration."""
    return "".join([*topic.rpartition("/")[:2], name])


def camera_names(names: str, image: str) -> list[str]:
    """Split the argument `cameras`.

    Raises:
        ValueError: a name is none, or all cameras would read the same topic.
    """
    cameras = names.split()
    check_camera_names(cameras)
    if len(cameras) > 1 and image.startswith("/"):
        raise ValueError(
            f"image:={image} is one topic for all cameras; give its name within each camera's "
            "namespace, without a slash before it"
        )
    return cameras


def processes(composition: str, namespace: str, cameras: list[str]) -> list[tuple[str, str]]:
    """Executable and namespace of each process."""
    if composition == SINGLE:
        return [("perception", namespace)]
    within = f"{namespace}/" if namespace else ""
    spaces = [within + camera for camera in cameras]
    encoder, reasoner, fusion = NODES
    each = [(node, space) for space in spaces or [namespace] for node in (encoder, fusion)]
    return [*each, (reasoner, namespace)]


def parameter_file(common: dict[str, object], reasoner: dict[str, object]) -> str:
    """Write parameters of all nodes and of the reasoner alone to a file.

    One that params_file cannot outdo by naming the nodes:
    launch_ros would write them for /**, and ROS goes by the order in which such names first occur.
    """
    content = {f"/**/{node}": {"ros__parameters": dict(common)} for node in NODES}
    content["/**/language_reasoner"]["ros__parameters"].update(reasoner)
    with NamedTemporaryFile("w", prefix="vlm_perception_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(content, file)
    return file.name
