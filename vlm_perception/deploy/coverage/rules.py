# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The checks named by a target's rules: each returns what is wrong with a node, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from vlm_perception.deploy.onnx.graph import OnnxGraph, attribute, dtype_name, subgraphs

TYPE_GROUPS = {
    "float": (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
    "float32": (TensorProto.FLOAT,),
    "float16": (TensorProto.FLOAT16,),
    "float8": (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2),
    "integer": (TensorProto.INT32, TensorProto.INT64),
    "int8": (TensorProto.INT8,),
    "int4": (TensorProto.INT4,),
    "bool": (TensorProto.BOOL,),
}
ANY = "any"
STANDARD = frozenset({"", "ai.onnx"})
# What a node may be called by, with the types of its first input: (domain, operator).
Operators = dict[tuple[str, str], tuple[str, ...]]
Found = str | None
NodeCheck = Callable[..., Found]
GraphCheck = Callable[..., Iterator[tuple[str, str]]]


def operator_is_listed(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """The target's table has the operator."""
    return None if _key(node) in operators else f"{node.op_type} is not listed"


def domain_is_standard(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """The operator is one of ONNX's own."""
    return None if node.domain in STANDARD else f"{node.op_type} is from {node.domain}"


def operand_type_is_listed(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """The table has the operator for the type of its first input; rule uint8-inside has UINT8."""
    allowed = operators.get(_key(node), (ANY,))
    dtype = _dtype(graph, node.input[0]) if node.input else None
    if dtype in (None, TensorProto.UINT8) or ANY in allowed or dtype in _members(allowed):
        return None
    return f"its input is {dtype_name(dtype)}"


def uint8_goes_through_cast(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """Only Cast reads and writes UINT8; quantization has a rule of its own."""
    if node.op_type in {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"}:
        return None
    for name in (*node.input, *node.output):
        if _dtype(graph, name) == TensorProto.UINT8:
            return f"{name} is uint8"
    return None


def quantized_type_is_listed(
    graph: OnnxGraph, node: NodeProto, operators: Operators, types: Collection[str]
) -> Found:
    """The quantized side of a QuantizeLinear or DequantizeLinear has an allowed type."""
    name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    dtype = _dtype(graph, name)
    if dtype is None or dtype in _members(types):
        return None
    return f"{name} is {dtype_name(dtype)}"


def float_types_are(
    graph: OnnxGraph, node: NodeProto, operators: Operators, types: Collection[str]
) -> Found:
    """Floating point has one of these types."""
    wrong = set(_members(["float", "float8"])) - set(_members(types))
    for name in (*node.input, *node.output):
        dtype = _dtype(graph, name)
        if dtype in wrong:
            return f"{name} is {dtype_name(dtype)}"
    return None


def attribute_is(
    graph: OnnxGraph,
    node: NodeProto,
    operators: Operators,
    name: str,
    default: Any,
    allowed: Collection[Any],
) -> Found:
    """An attribute has one of these values."""
    value = attribute(node, name, default)
    return None if value in allowed else f"{name} is {value}"


def attribute_is_within(
    graph: OnnxGraph,
    node: NodeProto,
    operators: Operators,
    name: str,
    least: float,
    most: float,
) -> Found:
    """All numbers of an attribute are within these limits; it may be absent."""
    given: Any = attribute(node, name, [])
    numbers = given if isinstance(given, list) else [given]
    if all(least <= number <= most for number in numbers):
        return None
    return f"{name} is {given}"


def attributes_are_absent(
    graph: OnnxGraph, node: NodeProto, operators: Operators, names: Collection[str]
) -> Found:
    """None of these attributes is given."""
    return next((f"it has {each.name}" for each in node.attribute if each.name in names), None)


def input_is_constant(
    graph: OnnxGraph, node: NodeProto, operators: Operators, position: int
) -> Found:
    """An input, where it is given, follows from the weights."""
    name = _input(node, position)
    return None if not name or name in graph.constants else f"{name} is computed"


def input_is_zero(graph: OnnxGraph, node: NodeProto, operators: Operators, position: int) -> Found:
    """An input, where it is given, is a constant that holds nothing but zeros."""
    name = _input(node, position)
    if not name:
        return None
    value = graph.value(name)
    if value is None:
        return f"{name} is computed"
    numbers = np.asarray(value, np.float64)
    return f"{name} is {numbers.ravel()[numbers.argmax()]:g}" if numbers.any() else None


def input_is_below(
    graph: OnnxGraph, node: NodeProto, operators: Operators, position: int, limit: int
) -> Found:
    """An input, where it is known, is less than a limit."""
    value = graph.value(_input(node, position))
    if value is None or int(np.max(value)) < limit:
        return None
    return f"it is {int(np.max(value))}"


def input_is_static(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """The first input has fixed dimensions."""
    known = graph.types.get(node.input[0])
    return None if known is not None and known.sizes() is not None else "they are free"


def outputs_at_most(graph: OnnxGraph, node: NodeProto, operators: Operators, count: int) -> Found:
    """No more outputs than these are asked for."""
    named = [name for name in node.output if name]
    return None if len(named) <= count else f"it has {len(named)} outputs"


def rank_is(
    graph: OnnxGraph, node: NodeProto, operators: Operators, allowed: Collection[int]
) -> Found:
    """The first input has as many dimensions as this."""
    known = graph.types.get(node.input[0])
    if known is None or known.shape is None or len(known.shape) in allowed:
        return None
    return f"it has {len(known.shape)}"


def scan_length_is_fixed(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """A Loop that collects outputs has a constant number of steps and a constant condition."""
    carried = len(node.input) - 2
    if len(node.output) <= carried:
        return None
    if not _input(node, 0) or node.input[0] not in graph.constants:
        return "the number of steps is computed"
    body = subgraphs(node)[0]
    passed_on = {each.output[0]: each.input[0] for each in body.node if each.op_type == "Identity"}
    goes_on = body.output[0].name
    constants = {tensor.name for tensor in body.initializer}
    constants |= {each.output[0] for each in body.node if each.op_type == "Constant"}
    if passed_on.get(goes_on, goes_on) in constants | {body.input[1].name}:
        return None
    return "the loop may end early"


def branches_agree(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """The branches of an If give outputs of the same rank under different names."""
    first, second = subgraphs(node)
    for one, other in zip(first.output, second.output, strict=True):
        if one.name == other.name:
            return f"both outputs are called {one.name}"
        ranks = [len(each.type.tensor_type.shape.dim) for each in (one, other)]
        if ranks[0] != ranks[1]:
            return f"the ranks are {ranks[0]} and {ranks[1]}"
    return None


def batch_is_within(graph: OnnxGraph, node: NodeProto, operators: Operators, limit: int) -> Found:
    """The product of all dimensions but the last three is within a limit."""
    for name, sizes in _activations(graph, node):
        if math.prod(sizes[:-3]) > limit:
            return f"{name} is {list(sizes)}"
    return None


def dimensions_are_within(
    graph: OnnxGraph, node: NodeProto, operators: Operators, limit: int
) -> Found:
    """Each of the last three dimensions is within a limit."""
    for name, sizes in _activations(graph, node):
        if max(sizes[-3:], default=0) > limit:
            return f"{name} is {list(sizes)}"
    return None


def never(graph: OnnxGraph, node: NodeProto, operators: Operators) -> Found:
    """No node of this kind runs on the target."""
    return node.op_type


def inputs_are_static(graph: OnnxGraph) -> Iterator[tuple[str, str]]:
    """Every input of the graph has fixed dimensions."""
    for name in graph.inputs:
        known = graph.types.get(name)
        if known is None or known.sizes() is None:
            sizes = [size or "?" for size in known.shape or ()] if known is not None else "unknown"
            yield name, f"input {name} is {sizes}"


def opset_is_within(graph: OnnxGraph, least: int, most: int) -> Iterator[tuple[str, str]]:
    """The graph is written in an opset of this range."""
    for entry in graph.model.opset_import:
        if entry.domain in STANDARD and not least <= entry.version <= most:
            yield "opset", f"the model uses opset {entry.version}"


NODE_CHECKS: dict[str, NodeCheck] = {
    check.__name__: check
    for check in (
        attribute_is,
        attribute_is_within,
        attributes_are_absent,
        batch_is_within,
        branches_agree,
        dimensions_are_within,
        domain_is_standard,
        float_types_are,
        input_is_below,
        input_is_constant,
        input_is_static,
        input_is_zero,
        never,
        operand_type_is_listed,
        operator_is_listed,
        outputs_at_most,
        quantized_type_is_listed,
        rank_is,
        scan_length_is_fixed,
        uint8_goes_through_cast,
    )
}
GRAPH_CHECKS: dict[str, GraphCheck] = {
    check.__name__: check for check in (inputs_are_static, opset_is_within)
}


def _key(node: NodeProto) -> tuple[str, str]:
    return ("" if node.domain in STANDARD else node.domain, node.op_type)


def _members(groups: Collection[str]) -> list[int]:
    return [member for group in groups if group != ANY for member in TYPE_GROUPS[group]]


def _dtype(graph: OnnxGraph, name: str) -> int | None:
    known = graph.types.get(name)
    return known.dtype if known is not None and known.dtype else None


def _input(node: NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _activations(graph: OnnxGraph, node: NodeProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What a node reads and writes besides weights, where its shape is known."""
    for name in (*node.input, *node.output):
        known = graph.types.get(name)
        sizes = known.sizes() if known is not None else None
        if sizes is not None and name not in graph.constants:
            yield name, sizes
