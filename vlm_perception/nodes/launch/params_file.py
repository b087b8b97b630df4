# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The parameter file that a launch file hands to the nodes: whether it is one, and for whom."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from rclpy.context import Context

from vlm_perception.common.share import share_folder
from vlm_perception.nodes.process.errors import ArgumentError

DEFAULT_PARAMS = share_folder() / "config" / "perception.yaml"
LARGEST_BYTES = 2**20
"""ROS takes seconds for one of this size, and the time grows with the square."""
PARAMETERS_KEY = "ros__parameters"


@dataclass(frozen=True)
class ParamsFile:
    """A file that ROS can read, as it was then."""

    content: bytes
    sections: tuple[str, ...]
    """Their names as given there, nested ones joined by a slash."""
    notes: tuple[str, ...]
    """A sentence for each node without a section."""

    def name_behind_all(self, node: str) -> str:
        """Name for a node's section in a second file, with values that the first cannot outdo.

        ROS goes by the order in which the names of sections first occur: a new one comes last.
        """
        names = (f"{'/**' * repeats}/{node}" for repeats in count(1))
        return next(name for name in names if name not in self.sections)

    def text(self, node: str, parameter: str) -> str:
        """What the file says for a node's parameter, as it is written there; may be empty."""
        values: dict[str, dict[str, str]] = {name: {} for name in self.sections}
        for name, parameters in _sections(self.content):
            values[name] |= {key.value: value.value for key, value in parameters}
        said = [
            each[parameter]
            for name, each in values.items()
            if _holds(name, node) and parameter in each
        ]
        return said[-1] if said else ""


def read_params_file(path: Path, nodes: Sequence[str]) -> ParamsFile:
    """Read a parameter file for nodes, given by their full names.

    Raises:
        ArgumentError: it cannot be read, is no parameter file, or has no section for any of them.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ArgumentError(
            f"params_file:={path} cannot be read ({error.strerror}); give a YAML file"
        ) from error
    if len(content) > LARGEST_BYTES:
        raise ArgumentError(
            f"params_file:={path} is larger than {LARGEST_BYTES} bytes, which ROS takes minutes to "
            "read; give a file with only the nodes' parameters"
        )
    _check_syntax(path, content)
    sections = tuple(name for name, _ in _sections(content))
    without = [node for node in nodes if not any(_holds(name, node) for name in sections)]
    if len(without) == len(nodes):
        found = ", ".join(sections[:5]) + ", ..." * (len(sections) > 5)
        raise ArgumentError(
            f"params_file:={path} has no section for {', '.join(nodes)}"
            + (f", only for {found}" if found else "")
            + f"; name the sections as {DEFAULT_PARAMS} does: /**/{_name(nodes[0])}"
        )
    return ParamsFile(content, sections, tuple(_note(path, node, sections) for node in without))


def _check_syntax(path: Path, content: bytes) -> None:
    """Let the parser of the nodes judge, whose YAML knows no aliases and no mixed lists.

    Raises:
        ArgumentError: it refuses the text.
    """
    context = Context()
    with NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        try:
            context.init(args=["--ros-args", "--params-file", file.name], initialize_logging=False)
        # What it raises is a private subclass.
        except RuntimeError as error:
            reason = str(error).rpartition("Error: ")[2].partition(", at ")[0].strip()
            raise ArgumentError(
                f"params_file:={path} is not a ROS parameter file ({reason}); correct it, or start "
                f"from a copy of {DEFAULT_PARAMS}"
            ) from error
    context.try_shutdown()


def _sections(content: bytes) -> Iterator[tuple[str, list[tuple[yaml.Node, yaml.Node]]]]:
    """Name and parameters of each section; a name may occur again."""
    for document in yaml.compose_all(content, Loader=yaml.SafeLoader):
        yield from _nested(document, "")


def _nested(
    node: yaml.Node | None, name: str
) -> Iterator[tuple[str, list[tuple[yaml.Node, yaml.Node]]]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        # ROS compares no more than the beginning.
        if key.value.startswith(PARAMETERS_KEY):
            yield name, value.value if isinstance(value, yaml.MappingNode) else []
        else:
            yield from _nested(value, f"{name}/{key.value}" if name else key.value)


def _holds(section: str, node: str) -> bool:
    """Whether the parameters of a section are those of a node, by the rule of rclpy."""
    pattern = f"/{section.removeprefix('/')}".replace("/*", r"(/\w+)")
    return re.fullmatch(pattern, node) is not None


def _note(path: Path, node: str, sections: Sequence[str]) -> str:
    sentence = f"{path} has no section for {node}, which runs with its defaults"
    astray = next((each for each in sections if _name(each) == _name(node)), None)
    return f"{sentence}; {astray} is another node: write /**/{_name(node)}" if astray else sentence


def _name(node: str) -> str:
    return node.rpartition("/")[2]
