# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Uses all that engines/tensorrt/cuda.py has, with the real pycuda, and cuda-python if found.

check_tensorrt.py runs it on a driver whose device is the host's memory, host_memory_driver.c. What
is checked is how arguments reach the driver and that all memory is given back, and nothing of a
GPU.
"""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np

from vlm_perception.engines.base import EngineError
from vlm_perception.engines.tensorrt import cuda
from vlm_perception.engines.tensorrt.cuda import (
    BufferPool,
    DeviceBuffer,
    PinnedBuffer,
    Stream,
    open_device,
)


def main() -> None:
    device = open_device()
    assert (device.name, device.compute_capability) == ("host memory", "8.7")
    assert device.shares_memory
    assert device.driver_version >= 13000
    with device.entered():
        before, total = device.memory()
    assert 0 < before <= total
    exercise_streams()
    # Buffers of other threads are given back here, those of this one there.
    thread = threading.Thread(target=exercise_streams)
    thread.start()
    thread.join()
    exercise_pool()
    try:
        with device.entered():
            DeviceBuffer(device, 2 * total)
    except EngineError as error:
        assert "out of memory" in str(error), error
    else:
        sys.exit("twice the device's memory was taken")
    gc.collect()
    with device.entered():
        after, _ = device.memory()
    assert after == before, f"{before - after} bytes were not given back"
    kind = "pycuda alone" if cuda.bindings is None else "cuda-python"
    print(f"copies, streams, recording and freeing with {kind}")


def exercise_streams() -> None:
    device = open_device()
    with device.entered():
        streams = [device.stream(urgent=True), device.stream(urgent=False)]
        for stream in streams:
            exercise_stream(device, stream)
        handles = [stream.handle for stream in streams]
        assert len(set(handles)) == len(handles) and 0 not in handles
        if cuda.bindings is not None:
            found = [cuda.bindings.cuStreamGetPriority(handle)[1] for handle in handles]
            assert found == [-5, 0], found


def exercise_stream(device: cuda.Device, stream: Stream) -> None:
    """Bring rows there, move a part of each, and bring them back."""
    source = PinnedBuffer(device, (4, 6), np.dtype(np.uint8))
    result = PinnedBuffer(device, (4, 8), np.dtype(np.uint8))
    first, second = DeviceBuffer(device, 24), DeviceBuffer(device, 32)
    first.clear()
    second.clear()
    source.array[...] = np.arange(24).reshape(4, 6)

    def move() -> None:
        stream.copy_rows(second.address + 1, first.address, width=3, pitches=(8, 6), rows=4)

    stream.upload(first.address, source.array)
    start = stream.record(move) or move
    stream.download(result.array, second.address)
    stream.synchronize()
    # What is recorded is not done.
    assert not result.array.any()
    for _ in range(2):
        source.array[...] += 1
        stream.upload(first.address, source.array)
        start()
        stream.download(result.array, second.address)
        stream.synchronize()
        np.testing.assert_array_equal(result.array[:, 1:4], source.array[:, :3])
        assert not result.array[:, 4:].any()


class Owner:
    """Somebody who is lent memory."""


def exercise_pool() -> None:
    """What went back is lent again before more is taken."""
    device = open_device()
    pool = BufferPool(device)
    with device.entered():
        owners = [Owner(), Owner()]
        addresses = [pool.lend(owner, 1000) for owner in owners]
        free, _ = device.memory()
        del owners
        gc.collect()
        again = [Owner(), Owner()]
        assert {pool.lend(owner, 1024) for owner in again} == set(addresses)
        assert device.memory()[0] == free
