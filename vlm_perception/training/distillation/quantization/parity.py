# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far what training computes is from what ONNX Runtime computes with the exported graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from vlm_perception.deploy.compression.int8 import quantize
from vlm_perception.deploy.compression.points import Point
from vlm_perception.training.distillation.quantization.tower import QuantizedTower

TOKEN_INDEX = "token_index"
INNER_IMAGES = 32
"""That are compared point by point; from the image to the end all are."""

Feed = Mapping[str, NDArray[Any]]
Precision = Callable[[NDArray[np.float32]], float]
"""Macro average precision of pooled embeddings [images, D]."""


@dataclass(frozen=True)
class Parity:
    """Of a quantized tower in torch and its graph in ONNX Runtime."""

    codes_apart: float
    """Share of integers that differ, for equal inputs."""
    codes_apart_by: int
    """How much, at most."""
    layer_error: float
    """Of the layer with the largest: the norm of the difference of its outputs, for equal inputs,
    by the norm of the outputs."""
    cosine_mean: float
    """Of the pooled embeddings, from the image to the end."""
    cosine_p1: float
    """Of the worst of a hundred images."""
    cosine_min: float
    equal_token_index: float
    """Share of images of which the same tokens are left."""
    ap_torch: float | None
    """Macro average precision of the labels; None where it is not known what the images show."""
    ap_onnx: float | None


def compare(
    flat: onnx.ModelProto,
    tower: QuantizedTower,
    points: Sequence[Point],
    images: Iterable[NDArray[np.uint8]],
    precision: Precision | None = None,
) -> Parity:
    """Compare a tower with its graph on images [H, W, 3].

    Args:
        flat: the graph in float that the points are of; it is used up.
        tower: with the trained weights and steps.
        points: where both quantize.
        images: to look at.
        precision: of embeddings of these images; None: what they show is not known.
    """
    outputs = {node.name: node.output[0] for node in flat.graph.node}
    ends = [value.name for value in flat.graph.output]
    quantized = quantize(flat, points, tower.point_steps())
    inside, whole = _Inside(quantized, tower, points, outputs), _session(quantized, [])
    tower.eval()
    ours, theirs, equal = [], [], []
    for number, image in enumerate(images):
        feed = {"image": image[np.newaxis]}
        if number < INNER_IMAGES:
            inside.look(feed)
        end = dict(zip(ends, whole.run(ends, feed), strict=True))
        with torch.no_grad():
            pooled, _, _, index = tower(torch.from_numpy(feed["image"]))
        ours.append(pooled[0].numpy())
        theirs.append(end["pooled"][0])
        if TOKEN_INDEX in end:
            equal.append(bool(np.array_equal(index[0].numpy(), end[TOKEN_INDEX][:-1])))
    in_torch, in_onnx = np.stack(ours), np.stack(theirs)
    cosines = (in_torch * in_onnx).sum(axis=1)
    return Parity(
        codes_apart=inside.apart / inside.count,
        codes_apart_by=inside.most,
        layer_error=inside.error,
        cosine_mean=float(cosines.mean()),
        cosine_p1=float(np.quantile(cosines, 0.01)),
        cosine_min=float(cosines.min()),
        equal_token_index=float(np.mean(equal)) if equal else 1.0,
        ap_torch=precision(in_torch) if precision else None,
        ap_onnx=precision(in_onnx) if precision else None,
    )


class _Inside:
    """Points and layers of a tower beside those of its graph, each given what the graph is."""

    def __init__(
        self,
        quantized: onnx.ModelProto,
        tower: QuantizedTower,
        points: Sequence[Point],
        outputs: Mapping[str, str],
    ) -> None:
        """Take a graph, and the names of what its nodes give."""
        self._tower, self._points, self._outputs = tower, points, outputs
        self._codes = _codes(quantized, points)
        inputs = sorted({point.tensor for point in points})
        self._inputs = inputs
        self._tensors = sorted({*inputs, *(outputs[point.node] for point in points)})
        self._inner = _session(quantized, self._tensors)
        self._integers = _session(_quantizers(quantized, inputs, self._codes), [])
        self.apart, self.count, self.most, self.error = 0, 0, 0, 0.0

    def look(self, feed: Feed) -> None:
        """Compare on one image."""
        seen = dict(zip(self._tensors, self._inner.run(self._tensors, feed), strict=True))
        names = sorted(self._codes.values())
        integers = self._integers.run(names, {name: seen[name] for name in self._inputs})
        known = dict(zip(names, integers, strict=True))
        given = {point.name: torch.from_numpy(seen[point.tensor]) for point in self._points}
        for point in self._points:
            ours = self._tower.codes(point.name, given[point.name])
            difference = np.abs(ours.numpy() - known[self._codes[point.name]].astype(np.int32))
            self.apart += int((difference > 0).sum())
            self.count += difference.size
            self.most = max(self.most, int(difference.max()))
        for node, here in _by_node(self._points).items():
            theirs = seen[self._outputs[node]]
            names = [point.name for point in here]
            layer = self._tower.layer(names, [given[name] for name in names])
            away = np.linalg.norm(layer.numpy().reshape(theirs.shape) - theirs)
            self.error = max(self.error, float(away / np.linalg.norm(theirs)))


def _session(model: onnx.ModelProto, more: Sequence[str]) -> onnxruntime.InferenceSession:
    """The graph with values inside it as outputs, too."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    there = {value.name for value in told.graph.output}
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        told.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _codes(model: onnx.ModelProto, points: Sequence[Point]) -> dict[str, str]:
    """Where a graph has the integers of each point."""
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = {node.name: node for node in model.graph.node}
    return {point.name: makers[nodes[point.node].input[point.place]].input[0] for point in points}


def _quantizers(
    model: onnx.ModelProto, inputs: Sequence[str], codes: Mapping[str, str]
) -> onnx.ModelProto:
    """The nodes of a graph that make integers of inputs, alone."""
    makers = {name: node for node in model.graph.node for name in node.output}
    quantizers = [makers[name] for name in sorted(codes.values())]
    clips = [makers[node.input[0]] for node in quantizers if node.input[0] not in inputs]
    nodes = [*clips, *quantizers]
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "quantizers",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inputs],
        [onnx.ValueInfoProto(name=name) for name in sorted(codes.values())],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _by_node(points: Sequence[Point]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        groups[point.node].append(point)
    return groups
