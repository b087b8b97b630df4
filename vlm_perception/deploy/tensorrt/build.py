# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the plans of a bundle on the machine that will run them."""

from __future__ import annotations

import fcntl
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.export_error import ExportError
from vlm_perception.common.machine import available_memory
from vlm_perception.deploy.coverage.coverage import Finding, cover_graph, load_target
from vlm_perception.deploy.onnx.tensorrt_graphs import TensorRtGraph, tensorrt_graphs
from vlm_perception.deploy.tensorrt.memory import MEBIBYTE, require_memory
from vlm_perception.engines.base import EngineError
from vlm_perception.engines.tensorrt.load import tensorrt_module, this_machine
from vlm_perception.engines.tensorrt.load_probe import require_loadable
from vlm_perception.engines.tensorrt.plan_store import (
    RECIPE,
    BuildOptions,
    Machine,
    PlanDescription,
    PlanKey,
    find_plan,
    plan_digest,
    sha256,
    writable_directory,
    write_description,
    write_whole,
)

ResultT = TypeVar("ResultT")
POLL_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one graph."""

    graph: str
    path: Path
    build_s: float | None
    """None: a fitting plan was there."""
    bytes: int


def build_bundle(
    bundle: ModelBundle,
    options: BuildOptions,
    progress_of: Callable[[str], Any],
    *,
    only: Iterable[str] | None = None,
) -> list[Outcome]:
    """Build the plans that are missing.

    Args:
        bundle: the model.
        options: how.
        progress_of: gives the `Progress` of a graph by its name.
        only: names of the bundle's graphs; all of them when None.

    Raises:
        EngineError: TensorRT is not installed, or there is no GPU.
        ExportError: a graph cannot be built, or there is too little memory.
        OSError: there is no room for the plans.
    """
    machine = this_machine()
    chosen = [g for g in tensorrt_graphs(bundle) if only is None or g.name in only]
    require_native(chosen, dla=options.dla)
    folder = writable_directory(bundle.path, bundle.digest)
    with (folder / "build.lock").open("w") as lock:
        # Two builds at once measure each other's load, and take twice the memory.
        _wait_for_lock(lock, folder)
        return [_build(bundle, graph, options, machine, folder, progress_of) for graph in chosen]


def _wait_for_lock(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("another process is building plans in %s; waiting for it to finish", folder)
        fcntl.flock(lock, fcntl.LOCK_EX)


def require_native(graphs: Iterable[TensorRtGraph], *, dla: bool) -> None:
    """Check graphs against what TensorRT's parser, or the accelerator, is documented to support.

    Raises:
        ExportError: something does not fit.
    """
    for graph in graphs:
        for finding in lint(graph, "dla" if dla else "tensorrt"):
            where = "the deep learning accelerator" if dla else "TensorRT"
            remedy = "build without --dla" if dla else finding.remedy
            raise ExportError(
                f"{graph.name} does not fit {where}: {finding.operator} {finding.node}: "
                f"{finding.why}; {remedy}"
            )


def lint(graph: TensorRtGraph, target: str) -> list[Finding]:
    """What a target does not take of a graph, and sizes that are free, at each set of shapes."""
    table = load_target(target)
    found: list[Finding] = []
    for name, shapes in graph.profiles:
        bound = graph.bound(shapes)
        found += cover_graph(bound, table).findings
        for tensor in (*bound.inputs, *bound.outputs):
            known = bound.types.get(tensor)
            if known is None or known.sizes() is None:
                found.append(
                    Finding(
                        graph=graph.name,
                        node=tensor,
                        operator="tensor",
                        rule="static-shapes",
                        why=f"a CUDA graph needs fixed sizes, and it has free ones ({name})",
                        remedy="fix them where tensorrt_graphs.py makes the graph",
                        source="https://docs.nvidia.com/deeplearning/tensorrt/latest/",
                    )
                )
    return found


def _build(
    bundle: ModelBundle,
    graph: TensorRtGraph,
    options: BuildOptions,
    machine: Machine,
    folder: Path,
    progress_of: Callable[[str], Any],
) -> Outcome:
    key = PlanKey(
        graph=graph.name,
        graph_sha256=plan_digest(bundle.graph_file(graph.name)),
        recipe=RECIPE,
        machine=machine,
        options=options,
    )
    there = _existing(bundle, key)
    if there is not None:
        return Outcome(graph.name, there, None, there.stat().st_size)
    _require_memory(graph.name, graph.weights(bundle), options.workspace_mib * MEBIBYTE)
    timing = folder / f"timing-{machine.tensorrt}-sm{machine.compute_capability}.cache"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vlm_perception.") as temporary:
        file = graph.write(bundle, Path(temporary))
        built = _in_thread(graph, file, options, timing, progress_of(graph.name))
    write_whole(timing, built.timing_cache)
    path = folder / f"{key.name()}.plan"
    write_whole(path, built.plan)
    # Before it counts: in a process of its own, as TensorRT may crash on what it does not like.
    require_loadable(path)
    description = PlanDescription(
        key=key,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        build_s=round(time.monotonic() - started, 3),
        profiles=tuple(name for name, _ in graph.profiles),
    )
    write_description(path, description)
    return Outcome(graph.name, path, description.build_s, description.bytes)


def _existing(bundle: ModelBundle, key: PlanKey) -> Path | None:
    """A plan of the same key."""
    try:
        path, description = find_plan(bundle.graph_file(key.graph), key.machine)
    except EngineError as error:
        _log.info("%s", error)
        return None
    return path if description.key == key else None


def _require_memory(graph: str, weights: int, workspace: int) -> None:
    device = tensorrt_module("vlm_perception.engines.tensorrt.cuda").open_device()
    with device.entered():
        free, _ = device.memory()
    gpu_free = None if device.shares_memory else free
    require_memory(graph, weights, workspace, host_free=available_memory(), gpu_free=gpu_free)


def _in_thread(
    graph: TensorRtGraph, file: Path, options: BuildOptions, timing: Path, progress: Any
) -> Any:
    """Build in a thread: the main thread stays free for Ctrl-C, which ends the build in order.

    Raises:
        ExportError: the build failed or was cancelled.
    """
    module = tensorrt_module("vlm_perception.deploy.tensorrt.builder")
    device = tensorrt_module("vlm_perception.engines.tensorrt.cuda").open_device()
    earlier = timing.read_bytes() if timing.exists() else b""
    with device.entered():
        builder = module.PlanBuilder(options, progress)

    def work() -> Any:
        with device.entered():
            return builder.build(file, graph.profiles, earlier)

    return _wait_for(work, builder.cancel)


def _wait_for(work: Callable[[], ResultT], cancel: Callable[[], None]) -> ResultT:
    """Do something in another thread; Ctrl-C asks it to end."""
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        # It is raised again below.
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="build")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(POLL_S)
        except KeyboardInterrupt:
            cancel()
    if errors:
        raise errors[0]
    return results[0]
