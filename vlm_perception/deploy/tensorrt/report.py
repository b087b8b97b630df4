# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `vlm-perception build` shows: progress, plans, their layers, and parity without a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.onnx.tensorrt_graphs import TensorRtGraph, tensorrt_graphs
from vlm_perception.deploy.tensorrt.build import Outcome, build_bundle, require_native
from vlm_perception.deploy.tensorrt.layers import (
    as_json,
    as_table,
    planned_precisions,
    read_layers,
)
from vlm_perception.deploy.tensorrt.memory import MEBIBYTE, needed
from vlm_perception.deploy.tensorrt.parity import OutputParity, measure_parity
from vlm_perception.engines.choose import measurable
from vlm_perception.engines.tensorrt.load import tensorrt_module
from vlm_perception.engines.tensorrt.plan_store import BuildOptions
from vlm_perception.outputs.file import write_figures


class PhaseBars:
    """Shows the phases of a build as bars, inner ones below their outer ones."""

    def __init__(self, bars: Progress, graph: str) -> None:
        """Show them in this display."""
        self._bars, self._graph = bars, graph
        self._tasks: dict[str, Any] = {}

    def started(self, phase: str, parent: str, steps: int) -> None:
        """A phase begins."""
        indent = "  " if parent else f"{self._graph}: "
        self._tasks[phase] = self._bars.add_task(f"{indent}{phase}", total=steps)

    def stepped(self, phase: str, done: int) -> None:
        """So many of its steps are done."""
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=done)

    def finished(self, phase: str) -> None:
        """It has ended."""
        if phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield bars


def report_build(
    name: str, options: BuildOptions, console: Console, *, layers: bool, json_file: Path | None
) -> None:
    """Build the plans of a bundle and print what was made.

    Raises:
        VlmPerceptionError: the bundle, the machine or a graph cannot be used.
        OSError: there is no room for the plans.
    """
    bundle = ModelBundle.load(name)
    with _bars(console) as bars:
        outcomes = build_bundle(bundle, options, lambda graph: PhaseBars(bars, graph))
    console.print(_plans(bundle, outcomes))
    if not layers:
        return
    inspect = tensorrt_module("vlm_perception.deploy.tensorrt.inspect").inspect_plan
    graphs = {graph.name: graph for graph in tensorrt_graphs(bundle)}
    reports = []
    for outcome in outcomes:
        graph = graphs[outcome.graph]
        profiles = zip(graph.profiles, inspect(outcome.path), strict=True)
        for index, ((profile, shapes), found) in enumerate(profiles):
            planned = planned_precisions(graph.bound(shapes))
            title = f"{graph.name} ({profile})"
            reports.append(read_layers(title, found.layers, found.median_ms, planned, index))
            console.print(as_table(reports[-1]))
    if json_file is not None:
        _write(json_file, as_json(reports))


def report_dry_run(
    name: str, options: BuildOptions, console: Console, json_file: Path | None
) -> None:
    """Check the graphs that would be built, and print how far they are from the bundle's own.

    Raises:
        VlmPerceptionError: the bundle cannot be used, or a graph does not fit TensorRT.
    """
    bundle = ModelBundle.load(name)
    graphs = tensorrt_graphs(bundle)
    require_native(graphs, dla=options.dla)
    found = [
        parity
        for graph in graphs
        for name in measurable()
        for parity in measure_parity(bundle, graph, name)
    ]
    console.print(_parity_table(bundle, found))
    console.print(_memory(bundle, graphs, options))
    console.print(
        "All graphs use only operators that TensorRT's ONNX parser documents, with all shapes "
        "fixed. Computed on the CPU; not run on TensorRT.",
        highlight=False,
    )
    if json_file is not None:
        _write(json_file, [vars(parity) for parity in found])


def _plans(bundle: ModelBundle, outcomes: Sequence[Outcome]) -> Table:
    table = Table(title=f"{bundle.manifest.name}: plans for this GPU")
    table.add_column("graph")
    table.add_column("plan", overflow="fold")
    table.add_column("MB", justify="right")
    table.add_column("built in", justify="right")
    for each in outcomes:
        took = "was there" if each.build_s is None else f"{each.build_s:.1f} s"
        table.add_row(each.graph, str(each.path), f"{each.bytes / 1e6:.1f}", took)
    return table


def _parity_table(bundle: ModelBundle, found: Sequence[OutputParity]) -> Table:
    table = Table(
        title=f"{bundle.manifest.name}: graphs for TensorRT compared with the bundle's own"
    )
    for column in ("graph", "shapes for", "output", "in"):
        table.add_column(column)
    for column in ("mean cosine", "least cosine"):
        table.add_column(column, justify="right")
    for each in found:
        cosines = (f"{each.cosine_mean:.6f}", f"{each.cosine_min:.6f}")
        table.add_row(each.graph, each.shapes, each.output, each.engine, *cosines)
    return table


def _memory(bundle: ModelBundle, graphs: Sequence[TensorRtGraph], options: BuildOptions) -> Table:
    """What a build asks for before it begins; by arithmetic."""
    table = Table(title=f"{bundle.manifest.name}: memory, MiB, estimated")
    table.add_column("graph")
    for column in ("weights", "KV cache", "to build: host", "GPU", "Jetson"):
        table.add_column(column, justify="right")
    for graph in graphs:
        weights = graph.weights(bundle)
        host, gpu = needed(weights, options.workspace_mib * MEBIBYTE)
        cache = graph.profiles[0][1].get("past")
        cached = 0 if cache is None else math.prod(cache) * np.dtype(np.float16).itemsize
        sizes = (weights, cached, host, gpu, host + gpu)
        table.add_row(graph.name, *(f"{size / MEBIBYTE:.1f}" for size in sizes))
    return table


def _write(file: Path, content: list[dict[str, Any]]) -> None:
    write_figures(file, content)
