# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine is: one graph on one device, arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.errors import VlmPerceptionError

Array = NDArray[Any]


class EngineError(VlmPerceptionError):
    """A graph cannot be loaded or run; the message says what was expected and what came."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of an input or output; a dimension named by a word is free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def describe(self) -> str:
        """The tensor in words, as `float32 [1, tokens, 192]`."""
        return describe(self.dtype, self.shape)


class Engine(Protocol):
    """A graph that is loaded and ready to run."""

    @property
    def name(self) -> str:
        """Engine and version, for diagnostics."""
        ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What the graph takes."""
        ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What the graph gives."""
        ...

    @property
    def half_precision(self) -> bool:
        """Whether it computes in FP16 what is FP32 in the graph.

        The outputs are then compared with stored ones by their directions alone.
        """
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; the arrays that come back belong to the caller.

        Raises:
            EngineError: an input is missing, foreign, or has the wrong type or shape.
        """
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine on a device of its own, which also takes what another of its kind left there."""

    def keep(self, name: str) -> Any:
        """Copy an output of the last run to where the next run leaves it alone, on the device.

        Returns:
            What takes the place of an array among the inputs of `run`.

        Raises:
            EngineError: the device failed.
        """
        ...


def describe(dtype: np.dtype[Any], shape: tuple[int | str, ...]) -> str:
    """Type and shape in words."""
    return f"{dtype} [{', '.join(str(size) for size in shape)}]"


def check_inputs(graph: str, specs: Mapping[str, TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Compare inputs with what a graph takes.

    Raises:
        EngineError: with what was expected and what came.
    """
    if inputs.keys() != specs.keys():
        raise EngineError(f"{graph} takes {sorted(specs)} but got {sorted(inputs)}")
    for name, spec in specs.items():
        value = inputs[name]
        fits = value.dtype == spec.dtype and len(value.shape) == len(spec.shape)
        if not fits or not all(
            isinstance(expected, str) or expected == actual
            for expected, actual in zip(spec.shape, value.shape, strict=True)
        ):
            raise EngineError(
                f"{graph}: input {name} must be {spec.describe()} but is "
                f"{describe(value.dtype, value.shape)}"
            )


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no engine can work with.

    Raises:
        EngineError: it is below one.
    """
    if threads < 1:
        raise EngineError(f"an engine needs at least one thread but got {threads}")
