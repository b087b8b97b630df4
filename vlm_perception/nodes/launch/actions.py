# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: declared arguments, a refusal, what the end of a process means."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    Shutdown,
    TimerAction,
)
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.launch_context import LaunchContext
from launch.logging import get_logger, launch_config

from vlm_perception.common.errors import RunError, VlmPerceptionError
from vlm_perception.nodes.launch.arguments import Argument, read_arguments, unknown_arguments
from vlm_perception.nodes.process.runner import BAD_INPUT


def with_arguments(
    file: str,
    arguments: Sequence[Argument],
    make: Callable[[LaunchContext, dict[str, Any]], Iterable[Any]],
) -> list[Any]:
    """Actions that declare the arguments, read all of them, and only then make anything.

    Args:
        file: the launch file.
        arguments: of two with one name the first counts.
        make: gets the context and the values; whatever it raises is a refusal, with its trace
            unless it is meant for people.
    """

    def read_and_make(context: LaunchContext) -> list[Any]:
        try:
            _warn_of_unknown(file, arguments)
            return list(make(context, read_arguments(arguments, context.launch_configurations)))
        except Exception as error:
            if not isinstance(error, VlmPerceptionError):
                get_logger("vlm_perception").error(traceback.format_exc())
            return [refusal(error)]

    declared = {
        each.name: DeclareLaunchArgument(
            each.name, default_value=each.default, description=each.description
        )
        for each in reversed(arguments)
    }
    return [*reversed(declared.values()), OpaqueFunction(function=read_and_make)]


def _warn_of_unknown(file: str, arguments: Sequence[Argument]) -> None:
    # In another launch file that includes this one they may well be that file's.
    if Path(file).name in {Path(each).name for each in sys.argv}:
        for sentence in unknown_arguments(sys.argv, [each.name for each in arguments]):
            get_logger("vlm_perception").warning(sentence)


def refusal(error: Exception) -> TimerAction:
    """An action that ends the launch with an error.

    Raised at once, it would leave alone what the same launch is just about to start.
    """

    def fail(_: LaunchContext) -> NoReturn:
        raise error

    return TimerAction(period=0.0, actions=[OpaqueFunction(function=fail)])


def stays_ended(event: ProcessExited, _: LaunchContext) -> EmitEvent | None:
    """On the exit of a process: what its settings keep from starting is not started again."""
    if event.returncode != BAD_INPUT:
        return None
    get_logger(event.process_name).error(
        "cannot start with these settings and is not restarted; correct them and launch again"
    )
    return EmitEvent(event=ShutdownProcess(process_matcher=matches_action(event.action)))


def end_of_all(what: str) -> Callable[[ProcessExited, LaunchContext], Shutdown]:
    """On the exit of a process: the launch ends, with an error if the process did."""

    def end(event: ProcessExited, context: LaunchContext) -> Shutdown:
        if event.returncode and not context.is_shutdown:
            raise RunError(f"{what} ended with exit code {event.returncode}")
        return Shutdown(reason=f"{what} ended")

    return end


def parameter_file(content: bytes | Mapping[str, object]) -> str:
    """Write a parameter file into the folder of the launch's log, and return its path.

    launch_ros would leave one in the temporary folder for each dict.

    Args:
        content: of the file, or the parameters of each node.
    """
    if not isinstance(content, bytes):
        sections = {node: {"ros__parameters": of_node} for node, of_node in content.items()}
        content = yaml.safe_dump(sections).encode()
    with NamedTemporaryFile(
        dir=launch_config.log_dir, prefix="parameters_", suffix=".yaml", delete=False
    ) as file:
        file.write(content)
    return file.name
