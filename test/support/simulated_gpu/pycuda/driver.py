# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU made of host memory: an address is an address, a copy is a copy, all work is done at once.

It lets the tests follow every byte through our code. What it has in common with pycuda is what
`make check-tensorrt` checks against the real one.
"""

import ctypes
import os
from types import SimpleNamespace

import numpy as np


class Error(Exception):
    """What pycuda's errors have in common."""


device_attribute = SimpleNamespace(INTEGRATED=0)
entered = []


def init():
    if os.environ.get("SIMULATED_GPU") == "missing":
        raise Error("cuInit failed: no CUDA-capable device is detected")


def get_driver_version():
    return 12060


def mem_get_info():
    need_context()
    return 6 << 30, 8 << 30


def need_context():
    if not entered:
        raise Error("invalid device context")


class Device:
    def __init__(self, index):
        assert index == 0

    @staticmethod
    def count():
        return 1

    def name(self):
        return os.environ.get("SIMULATED_GPU", "Simulated")

    def compute_capability(self):
        return 8, 7

    def get_attribute(self, attribute):
        assert attribute == device_attribute.INTEGRATED
        return 1

    def retain_primary_context(self):
        return Context()


class Context:
    def push(self):
        entered.append(self)

    @staticmethod
    def pop():
        entered.pop()

    @staticmethod
    def synchronize():
        need_context()


class DeviceAllocation:
    def __init__(self, size):
        self._memory = ctypes.create_string_buffer(size)
        # As on a real device, what was never written is anything at all.
        ctypes.memset(self._memory, 0xFF, size)

    def __int__(self):
        return ctypes.addressof(self._memory)

    def free(self):
        need_context()
        # Who still uses the address reads nonsense.
        ctypes.memset(self._memory, 0xEE, len(self._memory))
        del self._memory


def mem_alloc(size):
    need_context()
    return DeviceAllocation(size)


def memset_d8(address, value, size):
    need_context()
    ctypes.memset(address, value, size)


class PagelockedHostAllocation(np.ndarray):
    def free(self):
        need_context()


def pagelocked_empty(shape, dtype):
    need_context()
    owner = np.ndarray.__new__(PagelockedHostAllocation, shape, dtype)
    return owner.view(np.ndarray)


def memcpy_htod_async(target, source, stream):
    need_context()
    assert source.flags.c_contiguous
    ctypes.memmove(target, source.ctypes.data, source.nbytes)


def memcpy_dtoh_async(target, source, stream):
    need_context()
    assert target.flags.c_contiguous
    ctypes.memmove(target.ctypes.data, source, target.nbytes)


class Memcpy2D:
    def set_dst_device(self, address):
        self.target = address

    def set_src_device(self, address):
        self.source = address

    def __call__(self, stream):
        need_context()
        assert self.width_in_bytes <= min(self.dst_pitch, self.src_pitch)
        for row in range(self.height):
            ctypes.memmove(
                self.target + row * self.dst_pitch,
                self.source + row * self.src_pitch,
                self.width_in_bytes,
            )


class Stream:
    handle = 7

    def __init__(self):
        need_context()

    def synchronize(self):
        need_context()
