# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a graph that computes in FP32 into one whose MatMuls compute in FP16.

Norms, softmax, rotary angles and the residual stream stay FP32: in large decoders single hidden
values reach thousands, and their squares leave the range of FP16 (https://arxiv.org/abs/2402.17762,
section 2). What only moves data between MatMuls, the KV cache first of all, is FP16, too.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import NodeProto, TensorProto, helper

from vlm_perception.deploy.onnx.graph import OnnxGraph

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
# Operators that move the data of their first input and change nothing; Concat of all inputs.
MOVES = frozenset(
    {"Concat", "Transpose", "Reshape", "Split", "Expand", "Unsqueeze", "Squeeze", "Slice", "Gather"}
)
# Operators that look at no value: they take a tensor in the type in which it is there.
LOOKS = frozenset({"Shape", "Size"})


def to_fp16_matmuls(model: onnx.ModelProto, half: Collection[str] = ()) -> onnx.ModelProto:
    """Let every MatMul, Gemm and Conv read and write FP16.

    Args:
        model: the graph; weights may be stored in FP16 followed by a Cast. It is not modified.
        half: inputs and outputs that become FP16; the others keep their types.

    Returns:
        The new graph. Weights that are stored in FP16 are read as they are.
    """
    return _Rewriter(OnnxGraph(model, name="decoder"), frozenset(half)).run()


class _Rewriter:
    """Rewrites the nodes, with a cast wherever a value changes from one type to the other."""

    def __init__(self, graph: OnnxGraph, half: frozenset[str]) -> None:
        self._graph, self._kept_half = graph, half
        self._half_moves = self._find_half_moves()
        self._nodes: list[NodeProto] = []
        # Names under which a value exists already, in either type.
        self._made = {*graph.inputs, *graph.initializers}

    def run(self) -> onnx.ModelProto:
        graph = self._graph
        for index, node in enumerate(graph.nodes):
            self._write(node, half=node.op_type in PRODUCTS or index in self._half_moves)
        for name in graph.outputs:
            if self._is_float(name):
                self._read(name, half=name in self._kept_half)
        result = onnx.ModelProto()
        result.CopyFrom(graph.model)
        del result.graph.node[:], result.graph.value_info[:]
        result.graph.node.extend(self._used())
        for value in (*result.graph.input, *result.graph.output):
            if value.name in self._kept_half:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
        read = {name for node in result.graph.node for name in node.input}
        weights = [tensor for tensor in result.graph.initializer if tensor.name in read]
        del result.graph.initializer[:]
        result.graph.initializer.extend(weights)
        return result

    def _find_half_moves(self) -> set[int]:
        """Nodes that only move what is FP16 wherever it goes."""
        found: set[int] = set()
        readers: dict[str, list[bool]] = {}
        for index in reversed(range(len(self._graph.nodes))):
            node = self._graph.nodes[index]
            moves = node.op_type in MOVES and all(
                self._is_float(name)
                and (name not in self._graph.outputs or name in self._kept_half)
                and (name in self._kept_half or bool(readers.get(name)))
                and all(readers.get(name, ()))
                for name in node.output
            )
            if moves:
                found.add(index)
            if node.op_type in LOOKS:
                continue
            for position, name in enumerate(node.input):
                takes_half = node.op_type in PRODUCTS or (moves and _is_data(node, position))
                readers.setdefault(name, []).append(takes_half)
        return found

    def _write(self, node: NodeProto, *, half: bool) -> None:
        if self._is_weight_cast(node):
            return
        written = NodeProto()
        written.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name and self._is_float(name):
                takes_half = half and (node.op_type in PRODUCTS or _is_data(node, position))
                takes_half |= node.op_type in LOOKS and self._half(name) in self._made
                written.input[position] = self._read(name, half=takes_half)
        for position, name in enumerate(node.output):
            if self._is_float(name):
                written.output[position] = self._half(name) if half else self._full(name)
                self._made.add(written.output[position])
        self._nodes.append(written)

    def _read(self, name: str, *, half: bool) -> str:
        """Name of a value in the wanted type; casts it where it is only there in the other."""
        producer = self._graph.producers.get(name)
        if producer is not None and self._is_weight_cast(producer):
            if half:
                return str(producer.input[0])
            if self._full(name) not in self._made:
                self._cast(producer.input[0], self._full(name), TensorProto.FLOAT)
            return self._full(name)
        wanted, other = self._half(name), self._full(name)
        kind = TensorProto.FLOAT16
        if not half:
            wanted, other, kind = other, wanted, TensorProto.FLOAT
        if wanted not in self._made:
            self._cast(other, wanted, kind)
        return wanted

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=target, to=kind))
        self._made.add(target)

    def _half(self, name: str) -> str:
        return name if name in self._kept_half else f"{name}.fp16"

    def _full(self, name: str) -> str:
        return f"{name}.fp32" if name in self._kept_half else name

    def _is_float(self, name: str) -> bool:
        known = self._graph.types.get(name)
        return known is not None and known.dtype == TensorProto.FLOAT

    def _is_weight_cast(self, node: NodeProto) -> bool:
        """Whether it makes FP32 of a weight that is stored in FP16."""
        stored = self._graph.initializers.get(node.input[0]) if node.input else None
        return (
            node.op_type == "Cast"
            and stored is not None
            and stored.data_type == TensorProto.FLOAT16
            and self._is_float(node.output[0])
        )

    def _used(self) -> list[NodeProto]:
        """The nodes that something reads, in their order."""
        read = set(self._graph.outputs)
        kept = []
        for node in reversed(self._nodes):
            if read.intersection(node.output):
                kept.append(node)
                read.update(node.input)
        return kept[::-1]


def _is_data(node: NodeProto, position: int) -> bool:
    return position == 0 or node.op_type == "Concat"
