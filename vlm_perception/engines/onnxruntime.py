# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a graph with ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import (
    Array,
    EngineError,
    TensorSpec,
    check_inputs,
    check_threads,
)
from vlm_perception.engines.steps import Pace

ONNXRUNTIME = "onnxruntime"
NO_MEMORY = "; there is too little memory: stop other programs, or use a smaller bundle"

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeEngine:
    """One session of ONNX Runtime."""

    half_precision = False

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Load a graph.

        Args:
            path: the .onnx file.
            threads: threads that share the work inside one operator.

        Raises:
            EngineError: the file is no graph that this version can run.
        """
        check_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Threads that spin while they wait take the cores from the other nodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        # The runtime's exceptions share no base class but Exception.
        except Exception as error:
            remedy = NO_MEMORY if "bad_alloc" in str(error) else ""
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}{remedy}"
            ) from error
        self._graph = path.name
        self._inputs = {arg.name: _spec(arg) for arg in self._session.get_inputs()}
        self._outputs = {arg.name: _spec(arg) for arg in self._session.get_outputs()}
        self._names = list(self._outputs)
        self._pace = Pace(f"a run of {self._graph} in {self.name}")

    @property
    def name(self) -> str:
        """Engine and version, for diagnostics."""
        return f"onnxruntime {onnxruntime.__version__}"

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
        options = onnxruntime.RunOptions()
        try:
            with self._pace.call(partial(setattr, options, "terminate", True)):
                values = self._session.run(self._names, inputs, options)
        except Exception as error:
            if options.terminate:
                raise EngineError(
                    f"a run of {self._graph} in {self.name} took more than "
                    f"{self._pace.limit_s:.3g} s and was aborted; check what else uses this "
                    "machine's cores, memory or GPU"
                ) from error
            raise EngineError(f"{self._graph} failed in {self.name}: {error}") from error
        return dict(zip(self._names, values, strict=True))


class OnnxRuntime:
    """The backend that is always there: what others are compared with."""

    name = ONNXRUNTIME
    runs_plans = False

    def version(self) -> str:
        """Version of the library."""
        return str(onnxruntime.__version__)

    def prepare(self, graph: GraphFile) -> Path:
        """The graph's own file."""
        return graph.path

    def load(self, file: Path, graph: GraphFile, *, threads: int) -> OnnxRuntimeEngine:
        """Load a graph.

        Raises:
            EngineError: this version cannot run it.
        """
        return OnnxRuntimeEngine(file, threads=threads)


def _spec(arg: Any) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        raise EngineError(
            f"tensor {arg.name} has the type {arg.type}, which no engine here supports"
        )
    shape = tuple(
        size if isinstance(size, int) else str(size or f"dim{axis}")
        for axis, size in enumerate(arg.shape)
    )
    return TensorSpec(name=arg.name, dtype=np.dtype(dtype), shape=shape)
