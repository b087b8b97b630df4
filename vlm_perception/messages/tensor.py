# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays to the message Tensor and back."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.messages.codec import Library, MessageError, Row

CODES = {"i": 0, "u": 1, "f": 2}
"""DLPack's, by the kinds of numpy."""
NAMES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
DTYPES = {(CODES[name[0]], 8 * int(name[1])): np.dtype(f"<{name}") for name in NAMES}


def tensor(name: str, dtype: type[np.generic], ndim: int) -> Row:
    """A Tensor which is an array of one type and number of dimensions."""

    def read(message: Any) -> NDArray[Any]:
        values = tensor_array(message, name)
        if values.dtype != dtype or values.ndim != ndim:
            wanted = f"{ndim}-dimensional {np.dtype(dtype).name}"
            raise MessageError(
                f"{name} is {values.dtype.name} of shape {values.shape}, not {wanted}"
            )
        return np.ascontiguousarray(values)

    return Row(tensor_message, read)


def tensor_message(values: NDArray[Any], library: Library) -> Any:
    """Convert an array of integers or floats to a compact Tensor."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return library["vlm_perception/msg/Tensor"](
        dtype_code=CODES[values.dtype.kind],
        dtype_bits=8 * values.dtype.itemsize,
        dtype_lanes=1,
        shape=library.sequence(array("q", values.shape)),
        strides=library.sequence(array("q")),
        byte_offset=0,
        data=little.reshape(-1).view(np.uint8),
    )


def tensor_array(message: Any, name: str) -> NDArray[Any]:
    """Convert a Tensor to an array that shares its memory where it can.

    Raises:
        MessageError: the type is unknown, or shape, strides and data do not fit together.
    """
    dtype = DTYPES.get((message.dtype_code, message.dtype_bits))
    if dtype is None or message.dtype_lanes != 1:
        raise MessageError(
            f"{name} has elements of type code {message.dtype_code}, {message.dtype_bits} bits and "
            f"{message.dtype_lanes} lanes, which this version cannot read"
        )
    shape, strides = message.shape.tolist(), message.strides.tolist()
    size, start, held = dtype.itemsize, int(message.byte_offset), len(message.data)
    if len(strides or shape) != len(shape) or min([0, *shape, *strides]) < 0:
        raise MessageError(f"{name} has shape {shape} and strides {strides}")
    # numpy looks whether the last element is in the data, but not whether elements are so twice.
    try:
        if math.prod(shape) * size > held:
            raise TypeError(f"{math.prod(shape) * size} bytes are needed")  # as numpy does
        steps = [stride * size for stride in strides] or None
        # Other than ndarray, frombuffer keeps the message from moving its memory.
        data = np.frombuffer(message.data, np.uint8)
        values: NDArray[Any] = np.ndarray(shape, dtype, data, start, steps)
    except (OverflowError, TypeError, ValueError) as error:
        raise MessageError(
            f"{name} of shape {shape} starting at byte {start} does not fit into {held} bytes: "
            f"{error}"
        ) from error
    values.flags.writeable = False
    return values
