# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a graph with OpenVINO on the CPU; the library is optional."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import (
    Array,
    EngineError,
    TensorSpec,
    check_inputs,
    check_threads,
)
from vlm_perception.engines.steps import Pace

OPENVINO = "openvino"


class OpenVinoEngine:
    """One compiled model of OpenVINO, for one thread."""

    half_precision = False

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Load a graph.

        Args:
            path: the .onnx file.
            threads: threads that share the work inside one operator.

        Raises:
            EngineError: OpenVINO is not installed, or the file is no graph that it can run.
        """
        check_threads(threads)
        core, self._version = library()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Without these two it computes in BF16, or FP16 on Arm, where the processor can.
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_PRECISION_HINT": "f32",
            # Each process of the graph would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            graph = core.read_model(path)
            model = core.compile_model(graph, "CPU", settings)
        # What it raises is RuntimeError now and has been others before.
        except Exception as error:
            raise EngineError(f"OpenVINO {self._version} cannot load {path}: {error}") from error
        self._graph = path.name
        # Where it folds a cast away, a compiled output has names of inner values, too.
        self._inputs = _specs(graph.inputs, model.inputs)
        self._outputs = _specs(graph.outputs, model.outputs)
        self._request = model.create_infer_request()
        self._pace = Pace(f"a run of {self._graph} in {self.name}")

    @property
    def name(self) -> str:
        """Engine and version, for diagnostics."""
        return f"openvino {self._version}"

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        return self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once.

        Raises:
            EngineError: an input does not fit, or the runtime failed.
        """
        check_inputs(self._graph, self._inputs, inputs)
        try:
            # It can be cancelled only when it runs in a thread of OpenVINO's own, to which the
            # niceness of the caller does not apply.
            with self._pace.call():
                values = self._infer(inputs)
        except Exception as error:
            raise EngineError(f"{self._graph} failed in {self.name}: {error}") from error
        return {name: values[name] for name in self._outputs}

    def _infer(self, inputs: Mapping[str, Array]) -> Any:
        # share_outputs is off: the outputs are copies, which the next run leaves alone.
        return self._request.infer(dict(inputs))


class OpenVino:
    """The backend for Intel's processors, and for others that it knows."""

    name = OPENVINO
    runs_plans = False

    def version(self) -> str:
        """Version of its package; empty: it is not installed."""
        try:
            return version(OPENVINO)
        except PackageNotFoundError:
            return ""

    def prepare(self, graph: GraphFile) -> Path:
        """The graph's own file.

        Raises:
            EngineError: OpenVINO is not installed.
        """
        library()
        return graph.path

    def load(self, file: Path, graph: GraphFile, *, threads: int) -> OpenVinoEngine:
        """Load a graph.

        Raises:
            EngineError: it is none that OpenVINO can run.
        """
        return OpenVinoEngine(file, threads=threads)


@cache
def library() -> tuple[Any, str]:
    """OpenVINO's core and its version.

    Raises:
        EngineError: it is not installed.
    """
    # An import of openvino reports to its makers over the network unless openvino_telemetry is
    # missing (openvino/tools/ovc/telemetry_utils.py). A robot reports to nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        openvino = importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be imported ({error}): `pip install openvino`, or choose the engine "
            "onnxruntime"
        ) from error
    return openvino.Core(), openvino.__version__.split("-")[0]


def _specs(named: Sequence[Any], compiled: Sequence[Any]) -> dict[str, TensorSpec]:
    """The tensors of a compiled model's ports by their names in the graph."""
    names = (port.any_name for port in named)
    return {name: _spec(name, port) for name, port in zip(names, compiled, strict=True)}


def _spec(name: str, port: Any) -> TensorSpec:
    """A port's tensor; OpenVINO keeps no names of free dimensions."""
    shape = tuple(
        size.get_length() if size.is_static else f"dim{axis}"
        for axis, size in enumerate(port.partial_shape)
    )
    return TensorSpec(name, np.dtype(port.element_type.to_dtype()), shape)
