# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The backends, one row each, and what they are asked by name."""

from __future__ import annotations

from collections.abc import Iterable

from vlm_perception.engines.backend import Backend, GraphFile
from vlm_perception.engines.base import Engine, EngineError
from vlm_perception.engines.onnxruntime import OnnxRuntime
from vlm_perception.engines.openvino import OpenVino
from vlm_perception.engines.tensorrt.backend import TensorRt

BACKENDS: tuple[Backend, ...] = (
    OnnxRuntime(),
    OpenVino(),
    TensorRt(),
)
AUTO = "auto"
"""In place of a name: the backend that `choose.py` finds to be the fastest here."""


def choices() -> tuple[str, ...]:
    """What the parameter `engine` may be."""
    return (AUTO, *(backend.name for backend in BACKENDS))


def with_graphs() -> tuple[Backend, ...]:
    """The backends that run a bundle's graphs as they are, on any machine."""
    return tuple(backend for backend in BACKENDS if not backend.runs_plans)


def with_plans() -> tuple[Backend, ...]:
    """The backends that run plans, the preferred one first."""
    return tuple(backend for backend in BACKENDS if backend.runs_plans)


def load_engine(name: str, graph: GraphFile, *, threads: int) -> Engine:
    """Load a graph into the backend of that name.

    Raises:
        EngineError: there is no such backend, it is not installed, or it does not take the graph.
    """
    for backend in BACKENDS:
        if backend.name == name:
            return backend.load(backend.prepare(graph), graph, threads=threads)
    raise EngineError(f"there is no engine {name!r}; choose one of {', '.join(choices())}")


def why_unusable(backend: Backend, graphs: Iterable[GraphFile]) -> str:
    """Why a backend cannot run all these graphs here, in one sentence; empty: it can."""
    try:
        for graph in graphs:
            backend.prepare(graph)
    except EngineError as error:
        return str(error)
    return ""
