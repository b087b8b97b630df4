# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A plan in the GPU's memory, and its work at one set of shapes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from vlm_perception.engines.base import Array, EngineError, TensorSpec
from vlm_perception.engines.steps import Pace
from vlm_perception.engines.tensorrt.cuda import (
    BufferPool,
    Device,
    DeviceBuffer,
    PinnedBuffer,
    Stream,
)
from vlm_perception.engines.tensorrt.log import Log, Recorder, start

_log = logging.getLogger(__name__)

_DTYPES = {
    trt.DataType.FLOAT: np.float32,
    trt.DataType.HALF: np.float16,
    trt.DataType.INT64: np.int64,
    trt.DataType.INT32: np.int32,
    trt.DataType.UINT8: np.uint8,
    trt.DataType.BOOL: np.bool_,
}


class DeviceTensor:
    """A tensor that stays on the device; another engine of this process can take it as an input."""

    def __init__(self, pool: BufferPool, spec: TensorSpec) -> None:
        """Borrow memory; the device must be entered."""
        self.spec = spec
        self.address = pool.lend(self, size_of(spec))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self.spec.dtype

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Its sizes."""
        return self.spec.shape


class LoadedPlan:
    """A plan in the GPU's memory: the weights. `Program`s run it."""

    def __init__(self, path: Path, device: Device) -> None:
        """Read a plan; the device must be entered.

        Raises:
            EngineError: TensorRT does not take it.
        """
        self.path, self.device = path, device
        self.recorder = Recorder()
        # TensorRT keeps no reference of its own.
        self._logger = Log()
        self._runtime = start(trt.Runtime, self._logger)
        self._runtime.error_recorder = self.recorder
        # A plan that other versions can load brings code of its own. It is ours: its hash is known.
        self._runtime.engine_host_code_allowed = True
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error}") from error
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(
                f"TensorRT {trt.__version__} on {device.name} does not load {path} "
                f"({self.recorder.take() or 'no reason given'}); build it again with "
                "`vlm-perception build BUNDLE`"
            )
        self.engine: trt.ICudaEngine = engine
        self.names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]

    @property
    def profiles(self) -> int:
        """How many sets of shapes it was built for."""
        return int(self.engine.num_optimization_profiles)

    def is_input(self, name: str) -> bool:
        """Whether a tensor goes in."""
        return bool(self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's type.

        Raises:
            EngineError: numpy has no such type.
        """
        found = self.engine.get_tensor_dtype(name)
        if found not in _DTYPES:
            raise EngineError(f"{self.path}: tensor {name} has the type {found}")
        return np.dtype(_DTYPES[found])

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the device; errors include what TensorRT reported.

        Raises:
            EngineError: a call of CUDA or TensorRT failed.
        """
        try:
            with self.device.entered():
                yield
        except EngineError as error:
            reported = self.recorder.take()
            if not reported:
                raise
            raise EngineError(f"{self.path.name}: {error}: {reported}") from error

    def fail(self, what: str) -> EngineError:
        """An error with TensorRT's own message."""
        return EngineError(f"{self.path.name}: {what}: {self.recorder.take() or 'no reason given'}")


class Program:
    """A plan at one set of fixed shapes, with buffers of its own; one thread at a time."""

    def __init__(
        self,
        plan: LoadedPlan,
        stream: Stream,
        *,
        profile: int = 0,
        foreign: Mapping[str, int] | None = None,
    ) -> None:
        """Fix the shapes, take memory and run once; the device must be entered.

        Args:
            plan: what to run.
            stream: where it runs.
            profile: which of the plan's sets of shapes.
            foreign: addresses of tensors that are kept elsewhere on the device.

        Raises:
            EngineError: TensorRT refuses the shapes or fails.
        """
        self._plan, self._stream = plan, stream
        self._pace = Pace(f"a run of {plan.path.name} in tensorrt {trt.__version__}")
        self.context = plan.engine.create_execution_context()
        if self.context is None:
            raise plan.fail("its workspace memory cannot be allocated")
        self.context.error_recorder = plan.recorder
        if not self.context.set_optimization_profile_async(profile, stream.handle):
            raise plan.fail(f"profile {profile} cannot be selected")
        self.specs = self._fix_shapes(profile)
        self.inputs = {name: spec for name, spec in self.specs.items() if plan.is_input(name)}
        self.outputs = {name: spec for name, spec in self.specs.items() if name not in self.inputs}
        self._buffers: list[DeviceBuffer] = []
        self.addresses = {name: self._place(name, foreign or {}) for name in self.specs}
        self._host = {
            name: PinnedBuffer(plan.device, _sizes(spec), spec.dtype)
            for name, spec in self.specs.items()
            if name not in (foreign or {})
        }
        for name in self.inputs.keys() & self._host.keys():
            self._host[name].array.fill(0)
            stream.upload(self.addresses[name], self._host[name].array)
        # The first run allocates; what is recorded must not.
        self.enqueue()
        self.wait()
        self._start = self._recorded()

    def upload(self, inputs: Mapping[str, Any]) -> None:
        """Begin to bring inputs into place: arrays from the host, or tensors of the device."""
        for name, value in inputs.items():
            if isinstance(value, DeviceTensor):
                self.copy(self.addresses[name], value.address, size_of(value.spec))
                continue
            np.copyto(self._host[name].array, value)
            self._stream.upload(self.addresses[name], self._host[name].array)

    def copy(self, target: int, source: int, size: int) -> None:
        """Begin to copy bytes inside the device."""
        self._stream.copy_rows(target, source, width=size, pitches=(size, size), rows=1)

    def start(self) -> None:
        """Begin to compute.

        Raises:
            EngineError: TensorRT refuses to.
        """
        self._start()

    def download(self, names: Collection[str]) -> dict[str, Array]:
        """Wait for the outputs of these names, and for all that was begun before.

        Raises:
            EngineError: something that was begun failed; the message names the layer.
        """
        for name in names:
            self._stream.download(self._host[name].array, self.addresses[name])
        self.wait()
        return {name: self._host[name].array.copy() for name in names}

    def wait(self) -> None:
        """Wait for all that was begun.

        Raises:
            EngineError: something of it failed; the message names the layer.
        """
        with self._pace.call():
            self._stream.synchronize()
        if self._plan.recorder.num_errors():
            raise self._plan.fail("it failed while running")

    def _fix_shapes(self, profile: int) -> dict[str, TensorSpec]:
        plan = self._plan
        for name in filter(plan.is_input, plan.names):
            _, _, largest = plan.engine.get_tensor_profile_shape(name, profile)
            if not self.context.set_input_shape(name, tuple(sizes_of(largest))):
                raise plan.fail(f"input {name} cannot have the shape {sizes_of(largest)}")
        shapes = {name: tuple(sizes_of(self.context.get_tensor_shape(name))) for name in plan.names}
        return {name: TensorSpec(name, plan.dtype(name), shapes[name]) for name in plan.names}

    def _place(self, name: str, foreign: Mapping[str, int]) -> int:
        address = foreign.get(name)
        if address is None:
            spec = self.specs[name]
            self._buffers.append(DeviceBuffer(self._plan.device, size_of(spec)))
            address = self._buffers[-1].address
        if not self.context.set_tensor_address(name, address):
            raise self._plan.fail(f"the address of tensor {name} cannot be set")
        return address

    def enqueue(self) -> None:
        """Begin to compute without a CUDA graph.

        Raises:
            EngineError: TensorRT refuses to.
        """
        if not self.context.execute_async_v3(self._stream.handle):
            raise self._plan.fail("it cannot be started")

    def _recorded(self) -> Any:
        """The work as a CUDA graph, which starts in one call; the work itself where that fails."""
        try:
            return self._stream.record(self.enqueue) or self.enqueue
        except EngineError as error:
            self._plan.recorder.clear()
            _log.warning("%s runs without a CUDA graph: %s", self._plan.path.name, error)
            return self.enqueue


def sizes_of(dims: trt.Dims) -> list[int]:
    """The sizes of a shape."""
    return [int(dims[axis]) for axis in range(len(dims))]


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)


def size_of(spec: TensorSpec) -> int:
    """Bytes of a tensor with fixed sizes."""
    return int(np.prod(_sizes(spec), dtype=np.int64)) * spec.dtype.itemsize
