# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How long each layer of a graph takes on this machine, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.onnx.graph import OnnxGraph
from vlm_perception.deploy.profiling.devices import make_session

WARM_UP = 3
_EVENT = "_kernel_time"


@dataclass(frozen=True)
class LayerTimes:
    """Medians over the runs, in seconds."""

    layers: dict[str, float]
    unattributed: float
    """What no layer accounts for under the profiler: its own work, the runtime's, and nodes that
    the runtime made up."""
    run: float
    """A run without the profiler."""


def measure_layers(
    path: Path,
    inputs: Mapping[str, NDArray[Any]],
    layers: Mapping[str, str],
    *,
    threads: int,
    runs: int,
) -> LayerTimes:
    """Run a graph under the profiler.

    Args:
        path: the .onnx file.
        inputs: what it is run on.
        layers: the layer that each node, by its name, and each tensor belongs to.
        threads: threads of the runtime.
        runs: how often; the first ones beside that are not counted.

    Raises:
        ExportError: the runtime cannot run the graph.
    """
    with tempfile.TemporaryDirectory(prefix="vlm_perception.") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        # Weights beside the graph: it may be larger than a protobuf can be.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "weights"
        )
        try:
            session = make_session(str(path), threads, options)
            for _ in range(WARM_UP + runs):
                session.run(None, dict(inputs))
        # The runtime's exceptions share no base class but Exception.
        except Exception as error:
            raise ExportError(f"{path} cannot be measured: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        executed = onnx.load(optimized, load_external_data=False)
    per_run = _split_runs(events, _owners(executed.graph, layers))[WARM_UP:]
    names = {name for found, _ in per_run for name in found}
    return LayerTimes(
        layers={
            name: statistics.median(found.get(name, 0.0) for found, _ in per_run) for name in names
        },
        unattributed=statistics.median(rest for _, rest in per_run),
        run=_time_runs(path, inputs, threads, runs),
    )


def _time_runs(path: Path, inputs: Mapping[str, NDArray[Any]], threads: int, runs: int) -> float:
    """Median time of a run without the profiler."""
    session = make_session(str(path), threads)
    times = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        session.run(None, dict(inputs))
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def names_of_layers(graph: OnnxGraph, layers: Mapping[int, str]) -> dict[str, str]:
    """The layer of each node and tensor by its name."""
    named = {}
    for index, layer in layers.items():
        node = graph.nodes[index]
        named.update(dict.fromkeys([node.name, *node.output], layer))
    return named


def example_inputs(graph: OnnxGraph) -> dict[str, NDArray[Any]]:
    """Small random floats, and zeros for what counts or chooses."""
    generator = np.random.default_rng(0)
    inputs = {}
    for name in graph.inputs:
        known = graph.types[name]
        sizes = known.sizes()
        if sizes is None:
            raise ExportError(
                f"{graph.name}: the shape of input {name} is unknown; profile reads models written "
                "by `vlm-perception export`"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(known.dtype)
        values: NDArray[Any] = np.zeros(sizes)
        if np.issubdtype(dtype, np.floating):
            values = generator.standard_normal(sizes) * 0.1
        elif dtype == np.uint8:
            values = generator.integers(0, 256, sizes)
        inputs[name] = values.astype(dtype)
    return inputs


def _owners(graph: onnx.GraphProto, layers: Mapping[str, str]) -> dict[str, str]:
    """The layer of each node that the runtime executes.

    A fused node keeps the name of the last tensor that it replaces, or gets a name that begins
    with a node's; what the optimizer adds (a change of layout, say) belongs to what reads it.
    """
    owners: dict[str, str] = {}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in reversed(graph.node):
        candidates = [*node.output, node.name, node.name.split("/")[0]]
        found = next((layers[name] for name in candidates if name in layers), None)
        if found is None:
            behind = (reader for name in node.output for reader in readers[name])
            found = next((owners[each.name] for each in behind if each.name in owners), None)
        if found is not None:
            owners[node.name] = found
    return owners


def _split_runs(
    events: list[dict[str, Any]], owners: Mapping[str, str]
) -> list[tuple[dict[str, float], float]]:
    """The layers of each run and the rest of it; the profiler writes events as they end."""
    runs = []
    layers: dict[str, float] = defaultdict(float)
    for event in events:
        seconds = float(event["dur"]) / 1e6
        if event["cat"] == "Node" and event["name"].endswith(_EVENT):
            owner = owners.get(event["name"].removesuffix(_EVENT))
            if owner is not None:
                layers[owner] += seconds
        elif event["name"] == "model_run":
            runs.append((dict(layers), seconds - sum(layers.values())))
            layers.clear()
    return runs
