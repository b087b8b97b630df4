# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a plan, a graph that was built for this GPU, with TensorRT."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tensorrt as trt

from vlm_perception.engines.base import Array, TensorSpec, check_inputs
from vlm_perception.engines.tensorrt.cuda import BufferPool, Device, open_device
from vlm_perception.engines.tensorrt.plan_store import Machine
from vlm_perception.engines.tensorrt.program import DeviceTensor, LoadedPlan, Program, size_of


class TensorRtEngine:
    """A plan with fixed shapes."""

    half_precision = True

    def __init__(self, path: Path, *, urgent: bool = False) -> None:
        """Load a plan.

        Args:
            path: the plan file, whose description fits this machine.
            urgent: its work goes before that of other streams.

        Raises:
            EngineError: there is no GPU, or the plan does not fit.
        """
        self._device = open_device()
        self._lock = threading.Lock()
        with self._device.entered():
            self._plan = LoadedPlan(path, self._device)
        with self._plan.entered():
            self._program = Program(self._plan, self._device.stream(urgent=urgent))
        self._pool = BufferPool(self._device)
        self._graph = path.name

    @property
    def name(self) -> str:
        """Engine, version and GPU, for diagnostics."""
        return engine_name(self._device)

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes."""
        return self._program.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        return self._program.outputs

    def run(
        self, inputs: Mapping[str, Any], *, wanted: Collection[str] | None = None
    ) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: by name; arrays, or tensors that another engine kept.
            wanted: names of the outputs to bring back from the device; all of them when None.

        Raises:
            EngineError: an input does not fit, or the GPU failed.
        """
        program = self._program
        check_inputs(self._graph, program.inputs, inputs)
        with self._lock, self._plan.entered():
            program.upload(inputs)
            program.start()
            return program.download(program.outputs if wanted is None else wanted)

    def keep(self, name: str) -> DeviceTensor:
        """Copy an output of the last run to where the next run leaves it alone, on the device.

        Raises:
            EngineError: the GPU failed.
        """
        program = self._program
        with self._lock, self._plan.entered():
            kept = DeviceTensor(self._pool, program.outputs[name])
            program.copy(kept.address, program.addresses[name], size_of(kept.spec))
            program.wait()
            return kept


def this_machine() -> Machine:
    """What plans must have been built for.

    Raises:
        EngineError: there is no GPU.
    """
    device = open_device()
    return Machine(
        tensorrt=trt.__version__, gpu=device.name, compute_capability=device.compute_capability
    )


def engine_name(device: Device) -> str:
    """Engine, version and GPU, for diagnostics."""
    return f"tensorrt {trt.__version__} on {device.name}"
