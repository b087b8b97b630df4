# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of the launch files, and what each may be: all are read before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rclpy.exceptions import InvalidNamespaceException, InvalidTopicNameException
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_topic_name import validate_topic_name

from vlm_perception.bundle.bundle import find_bundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.nodes.base.camera_names import check_camera_names
from vlm_perception.nodes.launch.checkpoint import checkpoint
from vlm_perception.nodes.launch.edgellm import DOWNLOADS, server_options
from vlm_perception.nodes.launch.params_file import DEFAULT_PARAMS, read_params_file
from vlm_perception.nodes.process.errors import ArgumentError
from vlm_perception.perception.language.served.settings import OF_BUNDLE, SERVED

PROCESSES, SINGLE = "processes", "single"
TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off")
OF_LAUNCH_ITSELF = ("emulate_tty", "log_level", "sigkill_timeout", "sigterm_timeout")
ENCODER, REASONER, FUSION = "vision_encoder", "language_reasoner", "scene_fusion"
ARGUMENTS_OF: Mapping[str, tuple[str, ...]] = {
    ENCODER: ("bundle", "image_transport", "vocabulary"),
    FUSION: ("image_transport",),
    REASONER: ("bundle", "cameras", "language", "endpoint", "model"),
}
"""Arguments that are parameters of a node, besides use_sim_time, which each has."""


def boolean(text: str) -> bool:
    """Read true or false in any usual spelling."""
    if text.lower() not in TRUE + FALSE:
        raise ArgumentError("give true or false")
    return text.lower() in TRUE


def number(low: float, high: float) -> Callable[[str], float]:
    """Make a reader of numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:  # false for NaN, too
            raise ArgumentError(f"give a number from {low:g} to {high:.10g}")
        return value

    return read


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a reader of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ArgumentError(f"give one of: {', '.join(choices)}")
        return text

    return read


def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader that takes the empty text for None."""
    return lambda text: read(text) if text else None


def namespace(text: str) -> str:
    """Read a namespace, with or without the slashes around it, and give it back without."""
    name = text.strip("/")
    try:
        validate_namespace(f"/{name}")
    except InvalidNamespaceException as error:
        raise ArgumentError(f"{_reason(error)}; give one such as front or robot/front") from error
    return name


def topic(text: str) -> str:
    """Read the name of a topic."""
    try:
        validate_topic_name(text)
    except InvalidTopicNameException as error:
        raise ArgumentError(f"{_reason(error)}; give one such as /camera/image_raw") from error
    return text


def _reason(error: Exception) -> str:
    """The part before the lines that point at the character."""
    return str(error).partition("\n")[0].rstrip(":")


def cameras(text: str) -> list[str]:
    """Read the names of cameras, with spaces between them."""
    names = text.split()
    check_camera_names(names)
    return names


def bundle(text: str) -> str:
    """Read the name or the directory of a bundle that there is."""
    find_bundle(text)
    return text


def existing(text: str) -> Path:
    """Read the path of something that there is."""
    path = _path(text)
    if not path.exists():
        raise ArgumentError(f"{path.absolute()} does not exist; give its path")
    return path


def vocabulary(text: str) -> str:
    """Read the path of a vocabulary file that there is."""
    return str(existing(text).absolute())


def new_folder(text: str) -> Path:
    """Read the path of a folder that there is not yet."""
    path = _path(text)
    if path.exists():
        raise ArgumentError(f"{path.absolute()} already exists; give another, or move it away")
    return path


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    # For an unknown user.
    except RuntimeError as error:
        raise ArgumentError(f"{error}; give a full path") from error


@dataclass(frozen=True)
class Argument:
    """One argument of a launch file."""

    name: str
    default: str | None
    """None: it must be given."""
    description: str
    read: Callable[[str], Any]
    """Turns the text into a value.

    Raises:
        VlmPerceptionError: the text cannot be used; says what can.
    """


BOTH_TOPICS = one_of("raw", "compressed")

PERCEPTION = (
    Argument("namespace", "", "Namespace of the camera, for example front.", namespace),
    Argument(
        "cameras",
        "",
        "Several cameras, as `front rear`: each is a namespace within `namespace`, and one "
        "language_reasoner in `namespace` serves them in turn. Empty: one camera.",
        cameras,
    ),
    Argument(
        "bundle",
        "",
        "Model bundle: its name or its directory. Empty: the value in params_file.",
        optional(bundle),
    ),
    Argument(
        "image",
        "image",
        "Topic of the raw camera image; the compressed one is <image>/compressed. With several "
        "cameras it is relative to the namespace of each.",
        topic,
    ),
    Argument(
        "image_transport",
        "",
        "Which of the two to read: raw or compressed. Empty: the value in params_file.",
        optional(BOTH_TOPICS),
    ),
    Argument(
        "vocabulary",
        "",
        "Vocabulary file of `vlm-perception adapt classes` with the labels to begin with. Empty: "
        "the value in params_file.",
        optional(vocabulary),
    ),
    Argument(
        "params_file", str(DEFAULT_PARAMS), "YAML file with the parameters of the nodes.", existing
    ),
    Argument(
        "use_sim_time",
        "",
        "true: take the time from /clock, for simulators and ros2 bag play --clock. Empty: the "
        "value in params_file.",
        optional(boolean),
    ),
    Argument(
        "respawn",
        "true",
        "Restart a node that has exited: after a crash, or when it was killed.",
        boolean,
    ),
    Argument(
        "composition",
        PROCESSES,
        "processes: each node in its own process. single: all of them in one.",
        one_of(PROCESSES, SINGLE),
    ),
    Argument(
        "language",
        "",
        "Whose language model reasons: that of the bundle, or one that is served by an "
        "OpenAI-compatible server. Empty: the value in params_file.",
        optional(one_of(OF_BUNDLE, SERVED)),
    ),
    Argument(
        "endpoint",
        "",
        "Address of that server, as http://127.0.0.1:8000/v1. Empty: the value in params_file.",
        optional(str),
    ),
    Argument(
        "model",
        "",
        "Name of the model on that server. Empty: the value in params_file.",
        optional(str),
    ),
    Argument(
        "serve",
        "",
        "Starts TensorRT Edge-LLM's server with this model, the directory of a checkpoint or an "
        "id on the hub, for language_reasoner. Empty: no server is started.",
        optional(checkpoint),
    ),
    Argument(
        "serve_options",
        "",
        "Further options of that server, as '--max-kv-cache-capacity 4096'.",
        server_options,
    ),
    Argument(
        "allow_download",
        "false",
        "Whether that server may download a model that is not on this machine.",
        boolean,
    ),
)

DEMO = (
    Argument(
        "source",
        "roadworld",
        "A video file, a folder of images, a webcam's index, or roadworld.",
        str,
    ),
    Argument(
        "image_transport",
        "compressed",
        "How the images travel to the nodes: raw or compressed.",
        BOTH_TOPICS,
    ),
    Argument("rate_hz", "30.0", "Images per second.", number(0.1, 240.0)),
    Argument("loop", "false", "Begin again.", boolean),
    Argument(
        "duration_s", "0.0", "End after this many seconds; 0: with the video.", number(0.0, 1e9)
    ),
)

REPLAY = (
    Argument("bag", None, "The bag to play: its file or folder.", existing),
    Argument(
        "image_transport",
        "compressed",
        "Which of the two topics the bag holds: raw or compressed.",
        BOTH_TOPICS,
    ),
    Argument("rate", "1.0", "Playback speed.", number(0.01, 100.0)),
    Argument("loop", "false", "Begin again.", boolean),
    Argument(
        "delay",
        "5.0",
        "Seconds to wait for nodes and discovery before playing.",
        number(0.0, 3600.0),
    ),
    Argument(
        "record", "", "Folder of a bag to record the results into; new.", optional(new_folder)
    ),
)


def read_arguments(arguments: Iterable[Argument], given: Mapping[str, str]) -> dict[str, Any]:
    """Read the values of arguments; that of params_file is a ParamsFile.

    Args:
        arguments: those of PERCEPTION or more; of two with one name the first counts.
        given: the text of each by its name; missing ones get their defaults.

    Raises:
        ArgumentError: a value cannot be used; the message names the argument and what it takes.
    """
    values: dict[str, Any] = {}
    for each in arguments:
        if each.name not in values:
            text = given.get(each.name, each.default) or ""
            try:
                values[each.name] = each.read(text)
            except VlmPerceptionError as error:
                raise ArgumentError(f"{each.name}:={text}: {error}") from error
    _check_together(values)
    values["ros_namespace"] = given.get("ros_namespace", "").strip("/")
    values["params_file"] = read_params_file(values["params_file"], full_names(values))
    return values


def _check_together(values: Mapping[str, Any]) -> None:
    """Refuse values that contradict each other."""
    if len(values["cameras"]) > 1 and values["image"].startswith("/"):
        raise ArgumentError(
            f"image:={values['image']} is one topic for all cameras; give its name within each "
            "camera's namespace, without a leading slash"
        )
    if values["serve"] is None:
        return
    if values["language"] == OF_BUNDLE:
        raise ArgumentError(f"language:={OF_BUNDLE} needs no server; leave out serve")
    for name in ("endpoint", "model"):
        if values[name] is not None:
            raise ArgumentError(
                f"{name}:={values[name]} is another server's; leave it out, because serve starts "
                "one of its own, or leave out serve"
            )
    if values["serve"].folder is None and not values["allow_download"]:
        raise ArgumentError(
            f"serve:={values['serve'].source} is no directory and has not been downloaded to "
            f"{DOWNLOADS.expanduser()}; give allow_download:=true once, or the directory of a "
            "checkpoint"
        )


def full_names(values: Mapping[str, Any]) -> list[str]:
    """The full name of each node."""
    return [
        "/".join(["", *filter(None, (values["ros_namespace"], space)), node])
        for node, space in node_names(values)
    ]


def camera_namespaces(values: Mapping[str, Any]) -> list[str]:
    """The namespace of each camera, without a slash around it."""
    space = values["namespace"]
    within = f"{space}/" if space else ""
    return [within + camera for camera in values["cameras"]] or [space]


def node_names(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and namespace of each node."""
    each = [(node, space) for space in camera_namespaces(values) for node in (ENCODER, FUSION)]
    return [*each, (REASONER, values["namespace"])]


def node_parameters(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters that arguments give to each node; an empty one leaves them to params_file."""
    return {
        node: {
            name: values[name]
            for name in (*names, "use_sim_time")
            if values.get(name) not in (None, [])
        }
        for node, names in ARGUMENTS_OF.items()
    }


def unknown_arguments(command_line: Collection[str], known: Collection[str]) -> list[str]:
    """One sentence for each argument of a command line that the launch file does not have."""
    asked = [each.partition(":=")[0] for each in command_line if ":=" in each]
    sentences = []
    for name in asked:
        if name in known or name in OF_LAUNCH_ITSELF:
            continue
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "ros2 launch --show-args lists all arguments"
        sentences.append(f"there is no argument {name}, so it has no effect; {hint}")
    return sentences
