# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes behind one camera or several: ros2 launch vlm_perception perception.launch.py.

With `cameras:="front rear"` each camera has vision_encoder and scene_fusion in its namespace, and
one language_reasoner serves them all in turn. With `serve:=MODEL` the language model is one that
TensorRT Edge-LLM serves, in a process that is started and ended with the nodes.
"""

import os
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import SetEnvironmentVariable
from launch.logging import get_logger
from launch_ros.actions import Node

from vlm_perception.nodes.launch.actions import parameter_file, stays_ended, with_arguments
from vlm_perception.nodes.launch.arguments import PERCEPTION, SINGLE, node_names, node_parameters
from vlm_perception.nodes.launch.model_server import served_with_nodes

CONFIG = Path(get_package_share_directory("vlm_perception")) / "config"
RESPAWN_DELAY_S = 0.5


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*dds_profile(), *with_arguments(__file__, PERCEPTION, processes)])


def dds_profile() -> list[SetEnvironmentVariable]:
    """Fast DDS loses raw images with its defaults. A profile that the user set stays in force."""
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if any(name in os.environ for name in names):
        return []
    name = names[os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")]
    return [SetEnvironmentVariable(name, str(CONFIG / "fastdds.xml"))]


def processes(_: LaunchContext, values: dict[str, Any]) -> list[Any]:
    values, server = served_with_nodes(values)
    return [*server, *nodes(values)]


def nodes(values: dict[str, Any]) -> list[Node]:
    parameters = parameter_files(values)
    image = values["image"]
    together = values["composition"] == SINGLE
    return [
        Node(
            package="vlm_perception",
            executable=executable,
            namespace=namespace,
            parameters=parameters,
            remappings=[
                ("image", image),
                ("image/compressed", f"{image}/compressed"),
                ("camera_info", beside(image, "camera_info")),
            ],
            output="screen",
            respawn=values["respawn"],
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=stays_ended,
        )
        for executable, namespace in (
            [("perception", values["namespace"])] if together else node_names(values)
        )
    ]


def beside(topic: str, name: str) -> str:
    """The topic of that name beside another, as cameras publish their calibration."""
    return "".join([*topic.rpartition("/")[:2], name])


def parameter_files(values: dict[str, Any]) -> list[str]:
    """Files for all nodes: params_file as it is now, and what the other arguments say.

    They lie in the folder of the launch's log. A node that is started again gets what the others
    have, whatever has become of params_file.
    """
    params = values["params_file"]
    for note in params.notes:
        get_logger("vlm_perception").warning(note)
    of_arguments = {
        params.name_behind_all(node): parameters
        for node, parameters in node_parameters(values).items()
    }
    return [parameter_file(params.content), parameter_file(of_arguments)]
