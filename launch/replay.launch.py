# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the live nodes: ros2 launch vlm_perception replay.launch.py bag:=drive_bag."""

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, IncludeLaunchDescription, TimerAction
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource

from vlm_perception.nodes.launch.actions import end_of_all, with_arguments
from vlm_perception.nodes.launch.arguments import PERCEPTION, REPLAY, camera_namespaces

SHARE = Path(get_package_share_directory("vlm_perception"))
RECORDED = ("embedding", "embedding_info", "reasoning", "scene")
LAST_RESULTS_S = 1.0
RESULTS = (*RECORDED, "scene/markers", "scene/overlay")


def generate_launch_description() -> LaunchDescription:
    arguments = [*REPLAY, *(each for each in PERCEPTION if each.name != "use_sim_time")]
    return LaunchDescription(with_arguments(__file__, arguments, everything))


def everything(_: LaunchContext, values: dict[str, Any]) -> list[Any]:
    """The nodes, the player, whose end is the end of all, and the recorder."""
    # First: it sets the DDS profile, which the player needs most of all.
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    spaces = [f"/{space}".rstrip("/") for space in camera_namespaces(values)]
    recorder = [recording(values["record"], spaces)] if values["record"] else []
    return [perception, *recorder, player(values, spaces)]


def player(values: dict[str, Any], spaces: list[str]) -> ExecuteProcess | TimerAction:
    delay = values["delay"]
    play = ["ros2", "bag", "play", str(values["bag"]), "--clock", "100"]
    play += ["--rate", str(values["rate"])]
    # What the nodes of an earlier run said must not mix with what these say.
    play += ["--remap", *(f"{s}/{name}:={s}/recorded/{name}" for s in spaces for name in RESULTS)]
    # --delay gives discovery the time not to miss the first image, but lets /clock run on and jump
    # back, and holds before each round: a loop waits outside of the player, and only once.
    play += ["--loop"] if values["loop"] else ["--delay", str(delay)]
    process = ExecuteProcess(cmd=play, output="screen", on_exit=last_results)
    return TimerAction(period=delay, actions=[process]) if values["loop"] else process


def last_results(event: ProcessExited, context: LaunchContext) -> TimerAction:
    """The end comes when the nodes have had their time for the last images."""
    return TimerAction(period=LAST_RESULTS_S, actions=[end_of_all("the bag")(event, context)])


def recording(folder: Path, spaces: list[str]) -> ExecuteProcess:
    record = ["ros2", "bag", "record", "--output", str(folder), "--use-sim-time"]
    record += ["--qos-profile-overrides-path", str(SHARE / "config" / "record_qos.yaml")]
    record += [f"{space}/{name}" for space in spaces for name in RECORDED]
    return ExecuteProcess(cmd=record, output="screen")
