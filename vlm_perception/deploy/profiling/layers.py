# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which layer of a transformer a node of its graph belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from vlm_perception.deploy.onnx.graph import OnnxGraph, node_inputs
from vlm_perception.deploy.profiling.cost import ELEMENTWISE, VIEWS

NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"},
)
# Operators between a MatMul and the softmax over it.
BETWEEN = ELEMENTWISE | VIEWS | {"DequantizeLinear"}


@dataclass(frozen=True)
class Names:
    """Names of the parts before and after a graph's layers."""

    before: str
    behind: str


@dataclass
class _Segment:
    """The nodes between one norm and the next."""

    attends: bool = False
    selects: bool = False


def layer_of_nodes(graph: OnnxGraph, names: Names) -> dict[int, str]:
    """The layer of each node that is not constant, by the node's place in the graph.

    Layers are found by structure, since quantizers and optimizers change names: in a transformer
    with norms before its blocks, a norm of the residual stream begins a block; a block with a
    softmax over a MatMul of activations is an attention, the next one its feed-forward, one with a
    TopK in between chooses tokens, and what is left is the head. A node that the first output does
    not need belongs to the head, too.
    """
    needed = _ancestors(graph, graph.outputs[0])
    segments: dict[int, _Segment] = {}
    segment_of: dict[str, int] = {}
    place: dict[int, int] = {}
    starts = _norm_starts(graph)
    for index, node in enumerate(graph.nodes):
        if graph.is_constant(node):
            continue
        number = max((segment_of.get(name, 0) for name in node_inputs(node)), default=0)
        number += index in starts
        segment_of.update(dict.fromkeys(node.output, number))
        if not needed.isdisjoint(node.output):
            segment = segments.setdefault(number, _Segment())
            segment.attends |= node.op_type == "Softmax" and _is_attention(graph, node)
            segment.selects |= node.op_type == "TopK"
            place[index] = number
    labels = _label(segments, names)
    return {
        index: labels[place[index]] if index in place else names.behind
        for index, node in enumerate(graph.nodes)
        if not graph.is_constant(node)
    }


def _label(segments: dict[int, _Segment], names: Names) -> dict[int, str]:
    labels, layer, label = {}, -1, names.before
    for number in sorted(segments):
        if segments[number].attends:
            layer += 1
            label = f"layer {layer} attention"
        elif segments[number].selects:
            # Between an attention and its feed-forward, with a norm of its own.
            labels[number] = f"layer {layer} token selection"
            continue
        elif label.endswith("attention"):
            label = f"layer {layer} feed-forward"
        elif label != names.before:
            label = names.behind
        labels[number] = label
    return labels


def _norm_starts(graph: OnnxGraph) -> set[int]:
    """Places of the nodes that begin a norm of the residual stream."""
    starts: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        if graph.is_constant(node):
            continue
        if node.op_type in NORMS:
            starts[index] = _width(graph, node.input[0])
        elif node.op_type in {"Pow", "Mul"}:
            # Root mean square: x / sqrt(mean(x * x) + epsilon)
            readers = graph.consumers[node.output[0]]
            if len(readers) == 1 and readers[0].op_type == "ReduceMean" and _has_root(graph, node):
                starts[index] = _width(graph, node.input[0])
    if not starts:
        return set()
    # Queries and keys may have norms of their own, which are narrower.
    width = starts[min(starts)]
    return {index for index, each in starts.items() if each == width}


def _has_root(graph: OnnxGraph, square: NodeProto) -> bool:
    nodes = graph.consumers[square.output[0]]
    for _ in range(2):
        nodes = [reader for node in nodes for reader in graph.consumers[node.output[0]]]
        if any(node.op_type == "Sqrt" for node in nodes):
            return True
    return False


def _width(graph: OnnxGraph, name: str) -> int:
    known = graph.types.get(name)
    return (known.shape or (0,))[-1] or 0 if known is not None else 0


def _is_attention(graph: OnnxGraph, softmax: NodeProto) -> bool:
    """Whether a softmax is taken over a MatMul of two activations."""
    open_names, seen = [softmax.input[0]], set()
    while open_names:
        name = open_names.pop()
        node = graph.producers.get(name)
        if node is None or name in seen or name in graph.constants:
            continue
        seen.add(name)
        if node.op_type == "MatMul":
            return not any(each in graph.constants for each in node.input)
        if node.op_type in BETWEEN:
            open_names.extend(node.input)
    return False


def _ancestors(graph: OnnxGraph, output: str) -> set[str]:
    """All tensors that an output is computed from, and itself."""
    found: set[str] = set()
    open_names = [output]
    while open_names:
        name = open_names.pop()
        if name in found:
            continue
        found.add(name)
        if name in graph.producers:
            open_names.extend(node_inputs(graph.producers[name]))
    return found
