# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far the graphs for TensorRT are from the bundle's own, computed on the CPU.

ONNX Runtime rounds every FP16 value that the graph stores, as TensorRT does between its kernels;
OpenVINO computes FP16 nodes in FP32 here, and so shows the graphs' other differences alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    LANGUAGE_VISION_GRAPH,
    VISION_GRAPH,
    ModelBundle,
)
from vlm_perception.bundle.golden import TOKEN_INDEX
from vlm_perception.deploy.onnx.tensorrt_graphs import Shapes, TensorRtGraph
from vlm_perception.engines.backend import GraphFile
from vlm_perception.engines.base import Array, Engine
from vlm_perception.engines.registry import load_engine
from vlm_perception.engines.tensorrt.fixed_cache import Piece, causal_scores
from vlm_perception.perception.language.kv_cache import causal_inputs

INPUTS = 8
Pair = tuple[dict[str, Array], dict[str, Array]]
"""What the bundle's own graph and the one for TensorRT gave for the same input."""


@dataclass(frozen=True)
class OutputParity:
    """One output of one graph at one set of shapes."""

    engine: str
    graph: str
    shapes: str
    output: str
    cosine_mean: float
    """Over the output's vectors (its last axis)."""
    cosine_min: float


def measure_parity(bundle: ModelBundle, graph: TensorRtGraph, engine: str) -> list[OutputParity]:
    """Run a graph and the bundle's own on the same inputs in an engine of the CPU.

    Inputs are variations of those that the bundle stores; for the decoder random tokens, after a
    cache that its own graph made from other ones.

    Raises:
        EngineError: the engine is not installed, or does not take a graph.
    """
    own = load_engine(engine, GraphFile(bundle.file(graph.name)), threads=1)
    found = []
    for name, shapes in graph.profiles:
        with TemporaryDirectory(prefix="vlm_perception.") as folder:
            path = Path(folder) / graph.name
            onnx.save(graph.bound(shapes).model, path)
            for beside in bundle.path.glob(f"{graph.source}.data"):
                (path.parent / beside.name).symlink_to(beside)
            other = load_engine(engine, GraphFile(path), threads=1)
        generator = np.random.default_rng(0)
        if graph.name == DECODER_GRAPH:
            pairs = list(_decoder_pairs(bundle, graph, shapes, own, other, generator))
        else:
            pairs = list(_pairs(bundle, graph.name, own, other, generator))
        found += [
            OutputParity(engine, graph.name, name, output, *_cosines(output, pairs))
            for output in _floats(pairs[0][0])
        ]
    return found


def _pairs(
    bundle: ModelBundle, graph: str, own: Engine, other: Engine, generator: np.random.Generator
) -> Iterator[Pair]:
    for inputs in bundle.golden_inputs(graph), *_variations(bundle, graph, generator):
        first, second = own.run(inputs), other.run(inputs)
        if TOKEN_INDEX in first:
            _, ours, theirs = np.intersect1d(
                first[TOKEN_INDEX], second[TOKEN_INDEX], return_indices=True
            )
            first = {key: _at(value, ours) for key, value in first.items()}
            second = {key: _at(value, theirs) for key, value in second.items()}
        yield first, second


def _variations(
    bundle: ModelBundle, graph: str, generator: np.random.Generator
) -> Iterator[dict[str, Array]]:
    """The stored input, shifted and brightened where it is an image, else with noise."""
    for _ in range(INPUTS - 1):
        inputs = bundle.golden_inputs(graph)
        for name, value in inputs.items():
            if graph in (VISION_GRAPH, LANGUAGE_VISION_GRAPH):
                moved = np.roll(value, tuple(generator.integers(-40, 40, 2)), axis=(1, 2))
                moved = moved * generator.uniform(0.5, 1.3)
                inputs[name] = moved.clip(0, 255).astype(np.uint8)
            else:
                inputs[name] = value + generator.normal(0, 0.3 * value.std(), value.shape).astype(
                    value.dtype
                )
        yield inputs


def _at(value: Array, places: NDArray[np.int64]) -> Array:
    """An output at the tokens that both graphs kept."""
    return value[:, places] if value.ndim == 3 else value


def _decoder_pairs(
    bundle: ModelBundle,
    graph: TensorRtGraph,
    shapes: Shapes,
    own: Engine,
    other: Engine,
    generator: np.random.Generator,
) -> Iterator[Pair]:
    spec = bundle.manifest.language
    assert spec is not None
    table, layers = np.load(bundle.file(spec.embeddings)).astype(np.float32), 1 + spec.stacked

    def some(count: int) -> Array:
        return np.tile(table[generator.integers(0, len(table), count)], (1, layers))

    prefix = graph.profiles[0][1]["inputs_embeds"][1]
    tokens, places = shapes["inputs_embeds"][1], shapes["logit_rows"][0]
    for _ in range(INPUTS):
        past: Array = np.zeros((spec.layers, 2, 1, spec.kv_heads, 0, spec.head_dim), np.float32)
        if shapes is not graph.profiles[0][1]:
            past = own.run(causal_inputs(some(prefix), past, rows=[]))["new_kv"]
        embeds = some(tokens)
        rows = np.arange(tokens - places, tokens)
        first = own.run(causal_inputs(embeds, past, rows=rows.tolist()))
        seen = past.shape[4]
        scores = np.concatenate(
            [np.zeros((tokens, seen), np.float32), causal_scores(tokens)], axis=1
        )
        piece = Piece(embeds, np.arange(seen, seen + tokens), scores, rows)
        cache = np.zeros(shapes["past"], np.float16)
        cache[:, :, :, :, :seen] = past
        capacity = shapes["past"][4]
        given = piece.padded(tokens, capacity, seen, places)
        second = other.run({**given, "past": cache})
        yield first, {name: value.astype(np.float32) for name, value in second.items()}


def _floats(outputs: dict[str, Array]) -> list[str]:
    return [name for name, value in outputs.items() if np.issubdtype(value.dtype, np.floating)]


def _cosines(output: str, pairs: list[Pair]) -> tuple[float, float]:
    """Mean and least over the vectors of an output."""
    cosines: list[NDArray[Any]] = []
    for first, second in pairs:
        one, other = first[output].astype(np.float64), second[output].astype(np.float64)
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines.append(((one * other).sum(axis=-1) / lengths).ravel())
    every = np.concatenate(cosines)
    return float(every.mean()), float(every.min())
