# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The plans that TensorRT built of a bundle: where they are, and whether one fits this machine.

A plan is next to its description, a JSON file of the same name. A plan without one, or whose
content does not match it, is unfinished or foreign, and is never given to TensorRT.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.common.machine import cache_directory
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import EngineError

FOLDER = "tensorrt"
RECIPE = 1
"""Grows when the same bundle becomes other graphs."""
BUILD = "build one on this machine with `vlm-perception build BUNDLE`"

_log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuildOptions(_Strict):
    """What a plan depends on besides graph and machine."""

    optimization_level: int = 3
    """0 to 5: how long TensorRT looks for the fastest kernels."""
    workspace_mib: int = 1024
    """The most memory that one kernel may work with."""
    hardware: str = "none"
    """`none`: this GPU; `same-capability`: GPUs of its kind; `ampere`: Ampere and newer."""
    any_version: bool = False
    """Whether newer versions of TensorRT can load it, too."""
    dla: bool = False
    """Whether it runs on the deep learning accelerator."""


class Machine(_Strict):
    """What a plan must have been built for."""

    tensorrt: str
    gpu: str
    compute_capability: str


class PlanKey(_Strict):
    """What a plan was built of, for and with."""

    graph: str
    graph_sha256: str
    """Of the bundle's file that it was made of."""
    recipe: int
    machine: Machine
    options: BuildOptions

    def name(self) -> str:
        """The plan's file name without an ending."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        return f"{Path(self.graph).stem}-{digest[:12]}"

    def differences(self, graph_sha256: str, machine: Machine) -> list[str]:
        """Why a plan with this key does not fit; empty: it does."""
        found = []
        if (self.graph_sha256, self.recipe) != (graph_sha256, RECIPE):
            found.append("it was built from another graph")
        ours, here = self.machine, machine
        if not self._takes_version(here.tensorrt):
            found.append(f"it was built with TensorRT {ours.tensorrt}, this is {here.tensorrt}")
        if not self._takes_gpu(here):
            found.append(
                f"it was built on {ours.gpu} (compute capability {ours.compute_capability}), this "
                f"is {here.gpu} ({here.compute_capability})"
            )
        return found

    def _takes_version(self, version: str) -> bool:
        if self.machine.tensorrt == version:
            return True
        ours, here = _numbers(self.machine.tensorrt), _numbers(version)
        same = ours[:1] == here[:1] or (ours[:1], here[:1]) == ((10,), (11,))
        return self.options.any_version and same and here >= ours

    def _takes_gpu(self, here: Machine) -> bool:
        capability = _numbers(here.compute_capability)
        same = capability == _numbers(self.machine.compute_capability)
        if self.options.hardware == "same-capability":
            return same
        if self.options.hardware == "ampere":
            return capability >= (8, 0)
        return same and here.gpu == self.machine.gpu


class PlanDescription(_Strict):
    """The file beside a plan."""

    key: PlanKey
    sha256: str
    bytes: int
    build_s: float
    profiles: tuple[str, ...]
    """What each of its sets of shapes is for."""


def plan_source(graph: GraphFile) -> str:
    """Name of the bundle's file that a graph's plan is built of."""
    return (graph.half or graph.path).name


def plan_digest(graph: GraphFile) -> str:
    """Hash of all that a graph's plan is built of: the file, weights beside it, the prompt."""
    source = plan_source(graph)
    parts = [graph.hashes[name] for name in (source, f"{source}.data") if name in graph.hashes]
    return hashlib.sha256("\n".join([*parts, *graph.prompt]).encode()).hexdigest()


def plan_directories(bundle: Path, digest: str) -> tuple[Path, Path]:
    """Where a bundle's plans may be: in it, and in the user's cache."""
    return bundle / FOLDER, cache_directory() / FOLDER / digest[:16]


def writable_directory(bundle: Path, digest: str) -> Path:
    """Where to put plans: into the bundle, or the user's cache where that is read-only.

    Raises:
        OSError: neither can be written.
    """
    inside, cached = plan_directories(bundle, digest)
    try:
        inside.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=inside):
            return inside
    except OSError as error:
        _log.info("%s cannot be written (%s); plans go to %s", inside, error, cached)
    cached.mkdir(parents=True, exist_ok=True)
    return cached


def find_plan(graph: GraphFile, machine: Machine) -> tuple[Path, PlanDescription]:
    """The newest plan of a graph that fits this machine, and its description.

    Raises:
        EngineError: there is none; the message says what is wrong with those that are there.
    """
    unfit: list[str] = []
    digest = plan_digest(graph)
    for path, description in _described(graph, unfit):
        differences = description.key.differences(digest, machine)
        if not differences:
            differences = _damage(path, description)
        if not differences:
            return path, description
        unfit.append(f"{path.name}: {' and '.join(differences)}")
    if not unfit:
        raise EngineError(f"TensorRT has no plan for {graph.name}; {BUILD}")
    raise EngineError(f"no plan for {graph.name} fits ({'; '.join(unfit)}); {BUILD}")


def _described(graph: GraphFile, unfit: list[str]) -> Iterator[tuple[Path, PlanDescription]]:
    """The plans of a graph that have a description, the newest first."""
    files = [
        file
        for folder in plan_directories(graph.path.parent, graph.bundle_digest)
        for file in folder.glob(f"{graph.path.stem}-*.json")
    ]
    for file in sorted(files, key=lambda each: each.stat().st_mtime, reverse=True):
        try:
            yield file.with_suffix(".plan"), PlanDescription.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            unfit.append(f"{file.name} is not a description of a plan")


def _damage(path: Path, description: PlanDescription) -> list[str]:
    try:
        if path.stat().st_size == description.bytes and sha256(path) == description.sha256:
            return []
    except OSError:
        return ["the file is missing"]
    return ["it is truncated or altered"]


def write_description(path: Path, description: PlanDescription) -> None:
    """Write the description of a plan that is there; from then on the plan counts.

    Raises:
        OSError: the folder is full or read-only.
    """
    write_whole(path.with_suffix(".json"), description.model_dump_json(indent=2).encode())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replace a file in one step.

    Raises:
        OSError: the folder is full or read-only.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            Path(stream.name).replace(path)
        except OSError:
            Path(stream.name).unlink(missing_ok=True)
            raise


def sha256(path: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
