# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The GPU: its context, memory, streams and recorded work. No other file knows CUDA.

pycuda is needed. With cuda-python (`cuda.bindings`) beside it, streams have a priority and work can
be recorded as a CUDA graph; both share the device's primary context.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from pycuda import driver

from vlm_perception.engines.base import Array, EngineError

if TYPE_CHECKING:
    from cuda.bindings import driver as bindings
else:
    try:
        from cuda.bindings import driver as bindings
    except ImportError:
        bindings = None


class DeviceBuffer:
    """Memory of the GPU; it is given back when nothing refers to this any more."""

    def __init__(self, device: Device, size: int) -> None:
        """Take `size` bytes of the device, which must be entered."""
        self.size = size
        allocation = driver.mem_alloc(max(size, 1))
        self.address = int(allocation)
        _in_the_end(self, device, allocation.free)

    def clear(self) -> None:
        """Fill it with zeros, and wait for that."""
        driver.memset_d8(self.address, 0, self.size)
        driver.Context.synchronize()


class BufferPool:
    """Memory of the GPU that is used again.

    To take or free memory can make all streams wait, the encoder's too; what comes and goes with
    each frame is lent by a pool.
    """

    def __init__(self, device: Device) -> None:
        """Start without any."""
        self._device = device
        self._idle: dict[int, list[DeviceBuffer]] = {}

    def lend(self, owner: object, size: int) -> int:
        """Lend memory until nothing refers to its owner any more; the device must be entered.

        All work on it must have ended by then, or the next user must use the same stream.

        Returns:
            The address of at least `size` bytes.
        """
        rounded = 1 << max(size - 1, 0).bit_length()
        idle = self._idle.setdefault(rounded, [])
        # Not `if idle`: another thread may take the last one.
        try:
            buffer = idle.pop()
        except IndexError:
            buffer = DeviceBuffer(self._device, rounded)
        weakref.finalize(owner, idle.append, buffer).atexit = False
        return buffer.address


class PinnedBuffer:
    """Memory of the host that the GPU copies from and to by itself."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Take it; the device must be entered."""
        self.array: Array = driver.pagelocked_empty(shape, dtype)
        _in_the_end(self, device, cast("Any", self.array.base).free)


def _in_the_end(owner: object, device: Device, free: Callable[[], Any]) -> None:
    """Free something of the device when its owner goes, whichever thread lets go of it."""
    # When the process ends the driver frees everything itself.
    weakref.finalize(owner, _free, device, free).atexit = False


def _free(device: Device, free: Callable[[], Any]) -> None:
    with device.entered():
        free()


class Stream(Protocol):
    """Work that the GPU does in order, beside that of other streams."""

    @property
    def handle(self) -> int:
        """The address that TensorRT takes for it."""
        ...

    def upload(self, target: int, source: Array) -> None:
        """Begin to copy a pinned array to an address of the device."""
        ...

    def download(self, target: Array, source: int) -> None:
        """Begin to copy from an address of the device to a pinned array."""
        ...

    def copy_rows(
        self, target: int, source: int, *, width: int, pitches: tuple[int, int], rows: int
    ) -> None:
        """Begin to copy rows inside the device.

        Args:
            target: where the first row goes.
            source: address of the first row.
            width: bytes of a row.
            pitches: bytes from one row to the next, at the target and at the source.
            rows: how many.
        """
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `work` puts into this stream.

        Returns:
            What puts it there again; None where recording is not possible.
        """
        ...

    def synchronize(self) -> None:
        """Wait for all that was begun."""
        ...


class Device:
    """The first GPU that this process sees, with its primary context."""

    def __init__(self) -> None:
        """Take hold of the context.

        Raises:
            EngineError: there is no driver or no GPU.
        """
        try:
            driver.init()
            found = driver.Device.count()
        except driver.Error as error:
            raise EngineError(f"CUDA cannot be started ({error}): {_REMEDY}") from error
        if found == 0:
            raise EngineError(f"the CUDA driver finds no GPU: {_REMEDY}")
        device = driver.Device(0)
        self.name = str(device.name())
        major, minor = device.compute_capability()
        self.compute_capability = f"{major}.{minor}"
        self.driver_version = int(driver.get_driver_version())
        self.shares_memory = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        """Whether GPU and processor use the same memory, as on a Jetson."""
        self._context = device.retain_primary_context()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the context this thread's for a while; what fails in it is an EngineError.

        Raises:
            EngineError: a call of CUDA failed.
        """
        self._context.push()
        try:
            yield
        except driver.Error as error:
            raise EngineError(f"{self.name}: {error}") from error
        finally:
            driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes; the device must be entered."""
        free, total = driver.mem_get_info()
        return int(free), int(total)

    def stream(self, *, urgent: bool) -> Stream:
        """A new stream; the device must be entered.

        Args:
            urgent: run its work before that of other streams, where CUDA supports it.
        """
        return _PlainStream(self) if bindings is None else _BindingsStream(self, urgent=urgent)


_REMEDY = (
    "check `nvidia-smi` (on a Jetson `tegrastats`); start a container with `--runtime nvidia` or "
    "`--gpus all`; or choose another engine"
)


@cache
def open_device() -> Device:
    """The GPU, opened once a process.

    Raises:
        EngineError: there is none.
    """
    return Device()


class _PlainStream:
    """A stream of pycuda."""

    def __init__(self, device: Device) -> None:
        # pycuda gives a stream back when nothing refers to it, and leaks it outside its context.
        self._held = [driver.Stream()]
        self.handle = int(self._held[0].handle)
        _in_the_end(self, device, self._held.clear)

    def upload(self, target: int, source: Array) -> None:
        driver.memcpy_htod_async(target, source, self._held[0])

    def download(self, target: Array, source: int) -> None:
        driver.memcpy_dtoh_async(target, source, self._held[0])

    def copy_rows(
        self, target: int, source: int, *, width: int, pitches: tuple[int, int], rows: int
    ) -> None:
        copy = driver.Memcpy2D()
        copy.set_dst_device(target)
        copy.set_src_device(source)
        copy.dst_pitch, copy.src_pitch = pitches
        copy.width_in_bytes, copy.height = width, rows
        copy(self._held[0])

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        return None

    def synchronize(self) -> None:
        self._held[0].synchronize()


class _BindingsStream:
    """A stream of cuda-python: it has a priority and can be recorded."""

    def __init__(self, device: Device, *, urgent: bool) -> None:
        self._device = device
        least, greatest = _check(bindings.cuCtxGetStreamPriorityRange())
        # Work without a stream waits for other streams, and they for it, unless configured
        # otherwise.
        flags = bindings.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        (self._stream,) = _check(
            bindings.cuStreamCreateWithPriority(flags, greatest if urgent else least)
        )
        self.handle = int(self._stream)
        _in_the_end(self, device, partial(bindings.cuStreamDestroy, self._stream))

    def upload(self, target: int, source: Array) -> None:
        _check(bindings.cuMemcpyHtoDAsync(target, source.ctypes.data, source.nbytes, self._stream))

    def download(self, target: Array, source: int) -> None:
        _check(bindings.cuMemcpyDtoHAsync(target.ctypes.data, source, target.nbytes, self._stream))

    def copy_rows(
        self, target: int, source: int, *, width: int, pitches: tuple[int, int], rows: int
    ) -> None:
        copy = bindings.CUDA_MEMCPY2D()
        copy.dstMemoryType = copy.srcMemoryType = bindings.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.dstDevice, copy.srcDevice = target, source
        copy.dstPitch, copy.srcPitch = pitches
        copy.WidthInBytes, copy.Height = width, rows
        _check(bindings.cuMemcpy2DAsync(copy, self._stream))

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _check(bindings.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        finally:
            # Also when `work` failed: the stream is of no use while it records.
            (graph,) = _check(bindings.cuStreamEndCapture(self._stream))
        (ready,) = _check(bindings.cuGraphInstantiate(graph, 0))
        _check(bindings.cuGraphDestroy(graph))
        start = partial(_launch, ready, self._stream)
        _in_the_end(start, self._device, partial(bindings.cuGraphExecDestroy, ready))
        return start

    def synchronize(self) -> None:
        _check(bindings.cuStreamSynchronize(self._stream))


def _check(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of cuda-python gave besides its status.

    Raises:
        EngineError: the status is an error.
    """
    status, *values = result
    if status != bindings.CUresult.CUDA_SUCCESS:
        _, text = bindings.cuGetErrorString(status)
        described = text.decode() if isinstance(text, bytes) else str(status)
        raise EngineError(f"CUDA: {described}")
    return tuple(values)


def _launch(graph: Any, stream: Any) -> None:
    _check(bindings.cuGraphLaunch(graph, stream))
