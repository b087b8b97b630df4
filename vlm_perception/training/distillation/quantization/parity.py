# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far what training computes is from what ONNX Runtime computes with the exported graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from vlm_perception.deploy.compression.int8 import quantize
from vlm_perception.deploy.compression.points import Point
from vlm_perception.training.distillation.quantization.tower import QuantizedTower

TOKEN_INDEX = "token_index"


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
    cosine_min: float
    equal_token_index: float
    """Share of images of which the same tokens are left."""


def compare(
    flat: onnx.ModelProto,
    tower: QuantizedTower,
    points: Sequence[Point],
    images: Iterable[NDArray[np.uint8]],
) -> Parity:
    """Compare a tower with its graph on images [H, W, 3].

    Args:
        flat: the graph in float that the points are of; it is used up.
        tower: with the trained weights and steps.
        points: where both quantize.
        images: to look at.
    """
    outputs = {node.name: node.output[0] for node in flat.graph.node}
    ends = [value.name for value in flat.graph.output]
    quantized = quantize(flat, points, tower.point_steps())
    codes = _codes(quantized, points)
    inputs = sorted({point.tensor for point in points})
    tensors = sorted({*inputs, *(outputs[point.node] for point in points)})
    inner, whole = _session(quantized, tensors), _session(quantized, [])
    integers = _session(_quantizers(quantized, inputs, codes), [])
    tower.eval()
    apart, count, most, error = 0, 0, 0, 0.0
    cosines, equal = [], []
    for image in images:
        feed = {"image": image[np.newaxis]}
        seen = dict(zip(tensors, inner.run(tensors, feed), strict=True))
        names = sorted(codes.values())
        known = dict(
            zip(names, integers.run(names, {name: seen[name] for name in inputs}), strict=True)
        )
        given = {point.name: torch.from_numpy(seen[point.tensor]) for point in points}
        for point in points:
            ours = tower.codes(point.name, given[point.name])
            difference = np.abs(ours.numpy() - known[codes[point.name]].astype(np.int32))
            apart, count = apart + int((difference > 0).sum()), count + difference.size
            most = max(most, int(difference.max()))
        for node, here in _by_node(points).items():
            theirs = seen[outputs[node]]
            ours = tower.layer([point.name for point in here], [given[p.name] for p in here])
            away = np.linalg.norm(ours.numpy().reshape(theirs.shape) - theirs)
            error = max(error, float(away / np.linalg.norm(theirs)))
        end = dict(zip(ends, whole.run(ends, feed), strict=True))
        with torch.no_grad():
            pooled, _, _, index = tower(torch.from_numpy(feed["image"]))
        cosines.append(float((pooled.numpy() * end["pooled"]).sum()))
        if TOKEN_INDEX in end:
            equal.append(bool(np.array_equal(index[0].numpy(), end[TOKEN_INDEX][:-1])))
    return Parity(
        codes_apart=apart / count,
        codes_apart_by=most,
        layer_error=error,
        cosine_mean=float(np.mean(cosines)),
        cosine_min=min(cosines),
        equal_token_index=float(np.mean(equal)) if equal else 1.0,
    )


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
