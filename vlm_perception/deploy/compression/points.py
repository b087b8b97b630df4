# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where a precision plan quantizes a tower: one list, for the export and for training.

A point is an input that is quantized, and the weight that it is multiplied with, if it is a
constant. Its name is the path of a module of the tower: `layers.mlps.3.fc1`, `layers.attentions.3`
(query, key and value, which have one input) or `layers.attentions.3.out`; and, of the products
within an attention, one of PRODUCT_INPUTS behind that of the attention. A module that a tower calls
again has a second point, `layers.attentions.3#2`.

The export finds the nodes of a graph by these names, and training the modules that the graph was
made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.compression.precision_config import (
    Bits,
    TowerPlan,
    attention_of,
    check_groups,
    quantized_layers,
)
from vlm_perception.deploy.onnx.writer import layer_of

LINEAR = ("Gemm", "MatMul")
WEIGHTED = (*LINEAR, "Conv")
FUSION = "MatMulAddFusion"
"""In the name that ONNX Runtime gives a Gemm which it makes of a product in three dimensions."""
PRODUCT_INPUTS = ("query", "key", "softmax", "value")
"""Of query-key and attention-value; the names of the modules that they go through."""


@dataclass(frozen=True)
class Point:
    """A place where a graph is quantized."""

    name: str
    node: str
    """Name of the node in the graph."""
    place: int
    """Which of its inputs."""
    tensor: str
    """The input."""
    bits: Bits
    weight: str | None = None
    """The constant that it is multiplied with."""
    axis: int = 0
    """The axis of the weight that counts the outputs."""


def points_of(model: onnx.ModelProto, plan: TowerPlan) -> list[Point]:
    """The points of a tower's graph at which a plan quantizes it.

    Args:
        model: the graph in float, with folded constants.
        plan: with groups.

    Raises:
        ExportError: the plan does not fit the tower.
    """
    layers = layers_of(model)
    check_groups(
        plan.of_groups(), {name: nodes[0].op_type in LINEAR for name, nodes in layers.items()}
    )
    points = []
    for layer, bits in quantized_layers(plan).items():
        for number, node in enumerate(layers[layer], start=1):
            name = layer if number == 1 else f"{layer}#{number}"
            points.append(
                Point(name, node.name, 0, node.input[0], bits, node.input[1], _outputs_axis(node))
            )
    return points + _product_points(model, plan)


def layers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes with constant weights, by the path of their module."""
    constants = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants and layer_of(node):
            layers.setdefault(layer_of(node), []).append(node)
    return {layer: sorted(nodes, key=_comes_later) for layer, nodes in layers.items()}


def _comes_later(node: onnx.NodeProto) -> bool:
    """Whether a node is of a module's second call: of patches alone, which are not flat."""
    return FUSION in node.name


def attentions_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The two products within each layer's attention, by the path of its module."""
    constants = {tensor.name for tensor in model.graph.initializer}
    products: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        product = node.op_type == "MatMul" and not constants & set(node.input)
        if product and attention_of(layer_of(node)):
            products.setdefault(layer_of(node), []).append(node)
    return products


def _product_points(model: onnx.ModelProto, plan: TowerPlan) -> list[Point]:
    if plan.attention_products is None:
        return []
    products = attentions_of(model)
    named: Sequence[str] = plan.attention_products.layers or tuple(products)
    if foreign := [layer for layer in named if layer not in products]:
        raise ExportError(
            f"attention_products of the precision config names {foreign[0]}, which this tower does "
            f"not have; it has {', '.join(products)}"
        )
    bits = Bits(inputs=plan.attention_products.bits)
    return [
        Point(f"{layer}.{PRODUCT_INPUTS[2 * which + place]}", node.name, place, tensor, bits)
        for layer in named
        for which, node in enumerate(products[layer])
        for place, tensor in enumerate(node.input)
    ]


def _outputs_axis(node: onnx.NodeProto) -> int:
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1
