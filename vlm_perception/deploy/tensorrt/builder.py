# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Builds one plan with TensorRT. The graph alone determines the precisions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tensorrt as trt

from vlm_perception.common.export_error import ExportError
from vlm_perception.engines.tensorrt.log import Log, Recorder, start
from vlm_perception.engines.tensorrt.plan_store import BuildOptions
from vlm_perception.engines.tensorrt.program import sizes_of

MEBIBYTE = 1 << 20
HARDWARE = {
    "none": "NONE",
    "same-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere": "AMPERE_PLUS",
}


class Progress(Protocol):
    """Who wants to know how a build goes on; called from TensorRT's threads, one at a time."""

    def started(self, phase: str, parent: str, steps: int) -> None:
        """A phase begins; an outermost one has the parent ''."""
        ...

    def stepped(self, phase: str, done: int) -> None:
        """So many steps of a phase are done."""
        ...

    def finished(self, phase: str) -> None:
        """A phase has ended."""
        ...


@dataclass(frozen=True)
class BuiltPlan:
    """What a build gave."""

    plan: memoryview
    timing_cache: bytes
    """What was measured, for the next build on this machine."""


class Monitor(trt.IProgressMonitor):
    """Passes TensorRT's progress on, and can end the build."""

    def __init__(self, progress: Progress) -> None:
        """Start."""
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    # An exception must not leave these: they are called from C++.

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: Any) -> None:
        """A phase begins; the outermost has no parent."""
        with self._lock:
            self._progress.started(phase_name, parent_phase or "", int(num_steps))

    def step_complete(self, phase_name: str, step: Any) -> bool:
        """A step is done; False ends the build."""
        with self._lock:
            self._progress.stepped(phase_name, int(step) + 1)
        return not self.cancelled.is_set()

    def phase_finish(self, phase_name: str) -> None:
        """A phase has ended."""
        with self._lock:
            self._progress.finished(phase_name)


class PlanBuilder:
    """Builds the plan of one graph; `cancel` may be called from another thread."""

    def __init__(self, options: BuildOptions, progress: Progress) -> None:
        """Start TensorRT's builder; the device must be entered.

        Raises:
            EngineError: TensorRT cannot use the GPU.
            ExportError: this TensorRT or GPU lacks what the options ask for.
        """
        self._options = options
        self._monitor = Monitor(progress)
        self._recorder, self._logger = Recorder(), Log()
        self._builder = start(trt.Builder, self._logger)
        self._builder.error_recorder = self._recorder
        if options.dla and self._builder.num_DLA_cores == 0:
            raise ExportError(
                f"TensorRT {trt.__version__} finds no deep learning accelerator: Orin Nano and "
                "Thor have none, and not every version supports it; build without --dla"
            )

    def cancel(self) -> None:
        """End the build after the step that is under way."""
        self._monitor.cancelled.set()

    def build(
        self,
        graph: Path,
        profiles: tuple[tuple[str, Mapping[str, tuple[int, ...]]], ...],
        timing_cache: bytes,
    ) -> BuiltPlan:
        """Build a plan.

        Args:
            graph: the .onnx file.
            profiles: sets of shapes of the inputs.
            timing_cache: what earlier builds on this machine measured; may be empty.

        Raises:
            ExportError: TensorRT does not take the graph, or the build failed or was cancelled.
        """
        network = self._parse(graph)
        config = self._configure()
        cache = config.create_timing_cache(timing_cache)
        # None or refused: it is damaged, or of another version or GPU.
        if cache is None or not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        if any(-1 in sizes_of(tensor.shape) for tensor in inputs):
            for name, shapes in profiles:
                self._add_profile(config, name, shapes)
        plan = self._builder.build_serialized_network(network, config)
        if self._monitor.cancelled.is_set():
            raise ExportError("the build was cancelled; no file was changed")
        if plan is None:
            raise self._fail(f"TensorRT {trt.__version__} cannot build {graph.name}")
        return BuiltPlan(content_of(plan), bytes(content_of(cache.serialize())))

    def _parse(self, graph: Path) -> trt.INetworkDefinition:
        # By name: the numeric values differ between versions.
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(typed)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            found = "; ".join(f"{each.node_name()}: {each.desc()}" for each in errors)
            raise ExportError(
                f"TensorRT {trt.__version__} cannot read {graph.name} ({found}): see "
                "`vlm-perception coverage BUNDLE --target tensorrt`"
            )
        return network

    def _configure(self) -> trt.IBuilderConfig:
        options = self._options
        config = self._builder.create_builder_config()
        workspace = options.workspace_mib * MEBIBYTE
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        config.builder_optimization_level = options.optimization_level
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.progress_monitor = self._monitor
        level = trt.HardwareCompatibilityLevel.__members__.get(HARDWARE[options.hardware])
        if level is None:
            raise ExportError(
                f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware!r}; "
                "choose another"
            )
        config.hardware_compatibility_level = level
        if options.any_version:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.dla:
            # Without GPU_FALLBACK: a layer that does not fit is an error and no surprise.
            config.default_device_type = trt.DeviceType.DLA
            config.DLA_core = 0
        return config

    def _add_profile(
        self, config: trt.IBuilderConfig, name: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Add a set of shapes; least, usual and largest are the same, so that nothing moves."""
        profile = self._builder.create_optimization_profile()
        for tensor, sizes in shapes.items():
            fixed = trt.Dims(list(sizes))
            profile.set_shape(tensor, fixed, fixed, fixed)
        if config.add_optimization_profile(profile) < 0:
            raise self._fail(f"the shapes for {name} were refused")

    def _fail(self, what: str) -> ExportError:
        reason = self._recorder.take() or "no reason given"
        return ExportError(f"{what}: {reason}")


def content_of(memory: Any) -> memoryview:
    """The bytes of TensorRT's memory; they are read in place."""
    return memoryview(memory)
