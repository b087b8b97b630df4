# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a node of a graph costs: FLOPs and bytes, from shapes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.onnx.graph import OnnxGraph, attribute, node_inputs, subgraphs

# Another name for the same bytes.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
# Engines compute these in the pass that writes their input, or that reads their output.
# fmt: off
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Gelu", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Less", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "QuantizeLinear", "Reciprocal", "Relu", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh", "Where",
})
# fmt: on
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "Softmax", "ArgMax"})
# They read as much of their first input as they write.
SELECTIONS = frozenset({"Gather", "GatherElements", "GatherND", "Slice", "Split"})
# Operators with FLOPs that no export of this package contains; ignoring them would be wrong. fmt:
# off
UNCOUNTED = frozenset(
    {
        "Attention",
        "ConvInteger",
        "ConvTranspose",
        "DeformConv",
        "Einsum",
        "GRU",
        "LSTM",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    }
)
# fmt: on
FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
EIGHT_BITS = frozenset(
    {TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2}
)
_BYTES: dict[int, float] = {
    **dict.fromkeys(EIGHT_BITS, 1.0),
    TensorProto.INT4: 0.5,
    TensorProto.UINT4: 0.5,
    TensorProto.BOOL: 1.0,
    TensorProto.INT16: 2.0,
    TensorProto.UINT16: 2.0,
    TensorProto.INT32: 4.0,
    TensorProto.UINT32: 4.0,
    TensorProto.INT64: 8.0,
    TensorProto.UINT64: 8.0,
}


@dataclass(frozen=True)
class Cost:
    """Work of a node or a layer.

    `flops` counts matrix multiplications and convolutions, a multiplication with its addition as
    two; norms, softmax and activations count in the bytes only.
    """

    float_flops: int = 0
    int8_flops: int = 0
    weight_bytes: float = 0.0
    activation_bytes: float = 0.0

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return self.float_flops + self.int8_flops

    @property
    def bytes(self) -> float:
        """All that is read and written."""
        return self.weight_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.float_flops + other.float_flops,
            self.int8_flops + other.int8_flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
        )


class CostModel:
    """Counts one graph, whose shapes must be known.

    Bytes: each node reads its inputs and writes its outputs, except that views move nothing, that a
    chain of element-wise nodes is one pass with what is before it, and that after a
    DequantizeLinear the quantized tensor is what is read. Caches are not counted, nor attention
    that keeps its scores on the chip.
    """

    def __init__(self, graph: OnnxGraph, float_bytes: int) -> None:
        """Count a graph whose floats take `float_bytes` bytes when it runs."""
        self._graph, self._float_bytes = graph, float_bytes

    def cost(self, node: NodeProto) -> Cost:
        """Cost of one node; nothing for those that engines compute when they load the graph.

        Raises:
            ExportError: the node's shapes are unknown, or its operator has no cost here.
        """
        if self._graph.is_constant(node):
            return Cost()
        if subgraphs(node) or node.op_type in UNCOUNTED:
            raise ExportError(
                f"{self._graph.name}: {node.op_type} ({node.name}) has no known cost; profile "
                "reads models written by `vlm-perception export`"
            )
        flops = self._flops(node)
        weights, activations = self._traffic(node)
        quantized = flops > 0 and all(self._is_quantized(name) for name in node.input[:2])
        return Cost(
            float_flops=0 if quantized else flops,
            int8_flops=flops if quantized else 0,
            weight_bytes=weights,
            activation_bytes=activations,
        )

    def _flops(self, node: NodeProto) -> int:
        if node.op_type == "MatMul":
            return 2 * self._count(node.output[0]) * self._shape(node.input[0])[-1]
        if node.op_type == "Gemm":
            first = self._shape(node.input[0])
            inner = first[0] if attribute(node, "transA", 0) else first[1]
            return 2 * self._count(node.output[0]) * inner
        if node.op_type == "Conv":
            # [out, in / groups, height, width]
            return 2 * self._count(node.output[0]) * math.prod(self._shape(node.input[1])[1:])
        return 0

    def _traffic(self, node: NodeProto) -> tuple[float, float]:
        """Bytes of weights and of activations that a node reads and writes."""
        if node.op_type in VIEWS or node.op_type == "DequantizeLinear":
            return 0.0, 0.0
        weights = 0.0
        activations = sum(self._bytes(name) for name in node.output if not self._is_passed_on(name))
        for position, name in enumerate(node_inputs(node)):
            source = self._source(name)
            if self._is_passed_on(source):
                continue
            size = self._bytes(source)
            if node.op_type in SELECTIONS and position == 0:
                size = min(size, sum(self._bytes(output) for output in node.output))
            if source in self._graph.constants:
                weights += size
            else:
                activations += size
        return weights, activations

    def _source(self, name: str) -> str:
        """The tensor whose bytes are read for `name`."""
        node = self._graph.producers.get(name)
        while node is not None and node.op_type in VIEWS | {"DequantizeLinear"}:
            name = node.input[0]
            node = self._graph.producers.get(name)
        return name

    def _is_quantized(self, name: str) -> bool:
        node = self._graph.producers.get(name)
        while node is not None and node.op_type in VIEWS | {"Transpose"}:
            node = self._graph.producers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return False
        return self._type(node.input[0]) in EIGHT_BITS

    def _is_passed_on(self, name: str) -> bool:
        """Whether a tensor never reaches memory: one reader, which joins the pass before it."""
        producer = self._graph.producers.get(name)
        if producer is None or name in self._graph.constants:
            return False
        readers, seen = [name], []
        while readers:
            tensor = readers.pop()
            if tensor in self._graph.outputs:
                return False
            for node in self._graph.consumers[tensor]:
                if node.op_type in VIEWS or node.op_type == "DequantizeLinear":
                    readers.extend(node.output)
                else:
                    seen.append(node.op_type)
        if len(seen) != 1:
            return False
        joins = seen[0] in REDUCTIONS and producer.op_type in ELEMENTWISE
        return seen[0] in ELEMENTWISE or joins

    def _bytes(self, name: str) -> float:
        dtype = self._type(name)
        if dtype in FLOATS:
            return float(self._count(name) * self._float_bytes)
        return self._count(name) * _BYTES.get(dtype, 0.0)

    def _count(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _type(self, name: str) -> int:
        return self._graph.types[name].dtype if name in self._graph.types else 0

    def _shape(self, name: str) -> tuple[int, ...]:
        known = self._graph.types.get(name)
        sizes = known.sizes() if known is not None else None
        if sizes is None:
            raise ExportError(
                f"{self._graph.name}: the shape of {name} is unknown; profile reads models written "
                "by `vlm-perception export`"
            )
        return sizes
