# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the live nodes: ros2 launch vlm_perception replay.launch.py bag:=drive_bag."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

SHARE = Path(get_package_share_directory("vlm_perception"))
RECORDED = ("embedding", "embedding_info", "reasoning", "scene")

ARGUMENTS = (
    DeclareLaunchArgument("bag", description="The bag to play: its file or folder."),
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="Camera topic of the bag, without /compressed, for example /camera/image_raw.",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="compressed",
        choices=["raw", "compressed"],
        description="Which of the two topics the bag holds.",
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of playing."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Begin again."
    ),
    DeclareLaunchArgument(
        "delay", default_value="5.0", description="Seconds that nodes and discovery have to begin."
    ),
    DeclareLaunchArgument(
        "record", default_value="", description="Folder of a bag to record the results into."
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes."),
)


def generate_launch_description() -> LaunchDescription:
    # First: it sets the DDS profile, which the player needs most of all.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*ARGUMENTS, perception, OpaqueFunction(function=tools)])


def tools(context: LaunchContext) -> list[ExecuteProcess]:
    """The player, whose end is the end of all, and the recorder."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    # The player sends /clock from its start on; what it plays begins after the delay.
    play = ["ros2", "bag", "play", value("bag"), "--clock", "100"]
    play += ["--rate", value("rate"), "--delay", value("delay")]
    play += ["--loop"] if value("loop") == "true" else []
    player = ExecuteProcess(cmd=play, output="screen", on_exit=Shutdown(reason="the bag ended"))
    if not value("record"):
        return [player]
    space = value("namespace").strip("/")
    topics = [f"/{space}/{name}" if space else f"/{name}" for name in RECORDED]
    qos = str(SHARE / "config" / "record_qos.yaml")
    record = ["ros2", "bag", "record", "--storage", "mcap", "--output", value("record")]
    record += ["--use-sim-time", "--qos-profile-overrides-path", qos, *topics]
    return [ExecuteProcess(cmd=record, output="screen"), player]
