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
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

SHARE = Path(get_package_share_directory("vlm_perception"))
RECORDED = ("embedding", "embedding_info", "reasoning", "scene")
LAST_RESULTS_S = 1.0
RESULTS = (*RECORDED, "scene/markers", "scene/overlay")

ARGUMENTS = (
    DeclareLaunchArgument("bag", description="The bag to play: its file or folder."),
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="Camera topic of the bag, without /compressed, for example /camera/image_raw. "
        "With several cameras it is relative to the namespace of each.",
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
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Several cameras, as `front rear`: namespaces within `namespace`.",
    ),
)


def generate_launch_description() -> LaunchDescription:
    # First: it sets the DDS profile, which the player needs most of all.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*ARGUMENTS, perception, OpaqueFunction(function=tools)])


def tools(context: LaunchContext) -> list[ExecuteProcess | TimerAction]:
    """The player, whose end is the end of all, and the recorder."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    space = f"/{value('namespace').strip('/')}".rstrip("/")
    spaces = [f"{space}/{camera}" for camera in value("cameras").split()] or [space]
    play = ["ros2", "bag", "play", value("bag"), "--clock", "100", "--rate", value("rate")]
    # What the nodes of an earlier run said must not mix with what these say.
    play += ["--remap", *(f"{s}/{name}:={s}/recorded/{name}" for s in spaces for name in RESULTS)]
    loop = value("loop") == "true"
    # --delay gives discovery the time not to miss the first image, but lets /clock run on and jump
    # back, and holds before each round: a loop waits outside of the player, and only once.
    play += ["--loop"] if loop else ["--delay", value("delay")]
    end = TimerAction(period=LAST_RESULTS_S, actions=[Shutdown(reason="the bag ended")])
    play_bag = ExecuteProcess(cmd=play, output="screen", on_exit=end)
    player = TimerAction(period=float(value("delay")), actions=[play_bag]) if loop else play_bag
    if not value("record"):
        return [player]
    qos = str(SHARE / "config" / "record_qos.yaml")
    record = ["ros2", "bag", "record", "--output", value("record"), "--use-sim-time"]
    record += ["--qos-profile-overrides-path", qos]
    record += [f"{each}/{name}" for each in spaces for name in RECORDED]
    return [ExecuteProcess(cmd=record, output="screen"), player]
