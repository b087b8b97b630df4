# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Asks TensorRT what it made of a graph: the layers of a plan, and how long each takes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt as trt

from vlm_perception.engines.tensorrt.cuda import open_device
from vlm_perception.engines.tensorrt.program import LoadedPlan, Program

WARM_UP, RUNS = 5, 50


class LayerTimer(trt.IProfiler):
    """Collects the times of each layer."""

    def __init__(self) -> None:
        """Start without any."""
        trt.IProfiler.__init__(self)
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    def report_layer_time(self, layer_name: str, ms: Any) -> None:
        """Note one run of a layer."""
        self.milliseconds[layer_name].append(float(ms))


@dataclass(frozen=True)
class Inspection:
    """One set of shapes of a plan."""

    layers: str
    """The inspector's JSON."""
    median_ms: dict[str, float]
    """By the layer's name."""


def inspect_plan(path: Path) -> list[Inspection]:
    """Run a plan at each of its sets of shapes, layer by layer.

    Raises:
        EngineError: the plan does not load, or a layer failed.
    """
    device = open_device()
    found = []
    with device.entered():
        plan = LoadedPlan(path, device)
        for profile in range(max(plan.profiles, 1)):
            program = Program(plan, device.stream(urgent=False), profile=profile)
            inspector = plan.engine.create_engine_inspector()
            inspector.execution_context = program.context
            layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            timer = LayerTimer()
            program.context.profiler = timer
            for _ in range(WARM_UP + RUNS):
                program.enqueue()
                program.wait()
            medians = {
                name: statistics.median(times[WARM_UP:])
                for name, times in timer.milliseconds.items()
            }
            found.append(Inspection(layers, medians))
    return found
