# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the schedule of token pruning to how fast this device really is.

Latency falls with the number of tokens in steps, as wide as the tiles in which a device works, and
small networks may not get faster at all: Eliopoulos et al., Pruning One More Token is Enough
(https://arxiv.org/abs/2407.05941, section 4). So one layer is timed at many numbers of tokens,
those at the lower edges of the steps are candidates, and the chosen schedule is timed as a whole.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from vlm_perception.bundle.manifest import ImageSpec, KeepStep
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.engines.base import Array, Engine
from vlm_perception.engines.onnxruntime import OnnxRuntimeEngine
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import Layers

LEAST_SHARE = 1 / 8
"""Of the patches; with fewer, no tower's outputs stay close to the dense ones."""
COUNTS = 48
RUNS = 15
TRIES = 5
"""Whole graphs that are built and timed."""
MARGIN = 0.02
"""Less of a difference is not one: two timings of the same graph differ by as much."""

Schedule = tuple[KeepStep, ...]

_log = logging.getLogger(__name__)


def fit_to_device(
    build: Callable[..., VisionTower], image: ImageSpec, budget_ms: float
) -> Schedule:
    """Measure this device with ONNX Runtime on one thread and choose the schedule for a budget.

    Args:
        build: makes the vision graph with a schedule (`keep`).
        image: what the graph takes.
        budget_ms: what the graph may take, in milliseconds.

    Returns:
        The schedule, empty where no pruning is needed or none helps; the log tells which.
    """
    dense = build()
    patches = image.columns * image.rows
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = Path(scratch)
        block_ms = time_blocks(dense.layers, dense.positions.shape[2], patches, folder)
        reference = _load(dense, image, folder / "dense.onnx")

        def measure(keep: Schedule) -> tuple[float, float]:
            thinned = _load(build(keep=keep), image, folder / "pruned.onnx") if keep else reference
            return _time_in_turn(reference, thinned, image)

        places = prunable_places(len(dense.layers), dense.prunable)
        return choose(block_ms, len(dense.layers), places, patches, budget_ms, measure)


def choose(
    block_ms: Mapping[int, float],
    layers: int,
    places: Sequence[int],
    patches: int,
    budget_ms: float,
    measure: Callable[[Schedule], tuple[float, float]],
) -> Schedule:
    """The schedule with the most tokens that meets a budget and is faster than dense.

    Args:
        block_ms: time of one layer by its number of tokens; `patches` is among them.
        layers: of the tower.
        places: layers at which tokens may go.
        patches: tokens that come in.
        budget_ms: what the whole graph may take.
        measure: times the dense graph and one with a schedule, in milliseconds.
    """
    dense_ms, _ = measure(())
    if dense_ms <= budget_ms:
        _log.info(
            "the dense model takes %.2f ms, within the budget of %.2f: no tokens are pruned",
            dense_ms,
            budget_ms,
        )
        return ()
    gain = {
        keep: predict_gain(block_ms, layers, patches, keep)
        for keep in schedules(lower_edges(block_ms), places, patches)
    }
    most_first = sorted(gain, key=lambda keep: -sum(_tokens_by_layer(layers, patches, keep)))
    extra = 0.0  # what the steps themselves cost, as far as it is known
    fastest: Schedule = ()
    fastest_ms = dense_ms
    for _ in range(min(TRIES, len(gain))):
        hopeful = [keep for keep in most_first if dense_ms - gain[keep] + extra <= budget_ms]
        keep = hopeful[0] if hopeful else max(gain, key=lambda each: gain[each])
        dense_ms, found_ms = measure(keep)
        _log.info("%s: %.2f ms, dense %.2f ms", _in_words(keep), found_ms, dense_ms)
        faster = found_ms < dense_ms * (1 - MARGIN)
        if faster and found_ms <= budget_ms:
            return keep
        if faster and found_ms < fastest_ms:
            fastest, fastest_ms = keep, found_ms
        if not hopeful:
            break
        extra = found_ms - dense_ms + gain.pop(keep)
        most_first.remove(keep)
    _log.warning(
        "no schedule meets %.2f ms on this device; %s",
        budget_ms,
        f"the fastest found takes {fastest_ms:.2f}: {_in_words(fastest)}"
        if fastest
        else "none is faster than the dense model, so no tokens are pruned",
    )
    return fastest


def lower_edges(block_ms: Mapping[int, float]) -> list[int]:
    """Numbers of tokens that no larger number is as fast as, the largest first."""
    edges: list[int] = []
    for count in sorted(block_ms, reverse=True):
        if not edges or block_ms[count] < block_ms[edges[-1]] * (1 - MARGIN):
            edges.append(count)
    return edges


def prunable_places(layers: int, prunable: int) -> list[int]:
    """Layers after a quarter, half and three quarters of the tower, as EViT prunes at."""
    places = {layers * quarter // 4 for quarter in (1, 2, 3)}
    return sorted(place for place in places if place < prunable)


def schedules(edges: Sequence[int], places: Sequence[int], patches: int) -> Iterator[Schedule]:
    """Every schedule with falling numbers of tokens at some of the places."""
    fewer = [edge for edge in edges if edge < patches]
    for steps in range(1, len(places) + 1):
        for chosen in itertools.combinations(places, steps):
            for counts in itertools.combinations(fewer, steps):
                yield tuple(
                    KeepStep(layer=layer, tokens=count)
                    for layer, count in zip(chosen, counts, strict=True)
                )


def predict_gain(block_ms: Mapping[int, float], layers: int, patches: int, keep: Schedule) -> float:
    """What a schedule saves, in ms: half a layer where tokens are dropped, and all layers after."""
    after = _tokens_by_layer(layers, patches, keep)
    before = [patches, *after[:-1]]
    pairs = zip(before, after, strict=True)
    return sum(block_ms[patches] - (block_ms[come] + block_ms[go]) / 2 for come, go in pairs)


def _tokens_by_layer(layers: int, patches: int, keep: Schedule) -> list[int]:
    """How many tokens come out of each layer."""
    left = {step.layer: step.tokens for step in keep}
    counts = [patches]
    for layer in range(layers):
        counts.append(left.get(layer, counts[-1]))
    return counts[1:]


class Block(nn.Module):
    """The middle layer of a tower, for any number of tokens: [1, T, W] -> [1, T, W]."""

    def __init__(self, layers: Layers) -> None:
        """Take the layer."""
        super().__init__()
        self.layers, self.layer = layers, len(layers) // 2

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the layer."""
        flat, _, _ = self.layers.attend(self.layer, hidden[0], hidden.shape[1])
        return self.layers.feed_forward(self.layer, flat).unsqueeze(0)


def time_blocks(layers: Layers, width: int, patches: int, folder: Path) -> dict[int, float]:
    """Median time of one layer in milliseconds, by the number of tokens."""
    path = folder / "block.onnx"
    example = torch.zeros(1, patches, width)
    write_graph(Block(layers), {"hidden": example}, ["out"], path, {"hidden": {1: "tokens"}})
    engine = OnnxRuntimeEngine(path)
    stride = max(1, patches // COUNTS)
    counts = range(patches, max(2, int(patches * LEAST_SHARE)) - 1, -stride)
    inputs = {
        count: {"hidden": np.random.default_rng(0).normal(size=(1, count, width)).astype("f4")}
        for count in counts
    }
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(RUNS):
        for count in counts:
            times[count].append(_time(engine, inputs[count]))
    return {count: median(values) for count, values in times.items()}


def _load(graph: VisionTower, image: ImageSpec, path: Path) -> Engine:
    outputs = ("pooled", "tokens", "patches", *(["token_index"] if graph.keep else []))
    blank = torch.zeros(1, image.height, image.width, 3, dtype=torch.uint8)
    write_graph(graph, {"image": blank}, outputs, path)
    return OnnxRuntimeEngine(path)


def _time_in_turn(first: Engine, second: Engine, image: ImageSpec) -> tuple[float, float]:
    """Median times of two vision graphs in milliseconds."""
    shape = (1, image.height, image.width, 3)
    inputs = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for engine, values in zip((first, second), times, strict=True):
            values.append(_time(engine, inputs))
    return median(times[0]), median(times[1])


def _time(engine: Engine, inputs: Mapping[str, Array]) -> float:
    began = time.perf_counter()
    engine.run(inputs)
    return 1e3 * (time.perf_counter() - began)


def _in_words(keep: Schedule) -> str:
    return ", ".join(f"{step.tokens} tokens from layer {step.layer} on" for step in keep) or "dense"
