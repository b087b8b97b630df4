# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads an ONNX graph: who makes a tensor, who uses it, its shape, and what is constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, TypeProto, inliner, numpy_helper, shape_inference

from vlm_perception.common.export_error import ExportError

# Their outputs differ although their inputs, if any, are constant.
RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})

# Bytes of a weight from which on its values are not kept: only shapes and scales are looked at.
LARGE_WEIGHT = 1 << 16


@dataclass(frozen=True)
class TensorType:
    """Element type (of onnx.TensorProto) and shape; None is a size that is not known."""

    dtype: int
    shape: tuple[int | None, ...] | None

    def sizes(self) -> tuple[int, ...] | None:
        """The shape, if all of it is known."""
        if self.shape is None or None in self.shape:
            return None
        return tuple(size for size in self.shape if size is not None)


class OnnxGraph:
    """The nodes of a graph with local functions unpacked, and what is known of its tensors.

    A tensor is constant when it follows from the stored weights alone, as those that are stored in
    FP16 followed by a Cast, or in INT8 followed by a DequantizeLinear: engines compute such a
    tensor when they load the graph.
    """

    def __init__(self, model: onnx.ModelProto, *, name: str) -> None:
        """Read a model; it stays as it is.

        Raises:
            ExportError: the shapes contradict each other.
        """
        self.name = name
        model = inliner.inline_local_functions(model)
        try:
            model = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        except shape_inference.InferenceError as error:
            raise ExportError(f"{name}: the shapes contradict each other: {error}") from error
        self.model = model
        self.nodes: Sequence[NodeProto] = model.graph.node
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = {
            value.name: value for value in model.graph.input if value.name not in self.initializers
        }
        self.outputs = [value.name for value in model.graph.output]
        self.types = self._read_types()
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for tensor in node_inputs(node):
                self.consumers[tensor].append(node)
        self.constants = self._find_constants()

    def _read_types(self) -> dict[str, TensorType]:
        graph = self.model.graph
        types = {
            name: TensorType(tensor.data_type, tuple(tensor.dims))
            for name, tensor in self.initializers.items()
        }
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.HasField("tensor_type"):
                types[value.name] = _tensor_type(value.type)
        return types

    def _find_constants(self) -> set[str]:
        """Names of all tensors that follow from the weights alone."""
        found = set(self.initializers)
        for node in self.nodes:
            fixed = node.op_type not in RANDOM and all(name in found for name in node_inputs(node))
            if fixed and not subgraphs(node):
                found.update(node.output)
        return found

    def is_constant(self, node: NodeProto) -> bool:
        """Whether an engine can compute this node when it loads the graph."""
        return bool(node.output) and all(name in self.constants for name in node.output if name)

    def value(self, name: str) -> NDArray[np.generic] | None:
        """A stored tensor's values; None when it is computed or kept in another file."""
        tensor = self.initializers.get(name)
        producer = self.producers.get(name)
        if tensor is None and producer is not None and producer.op_type == "Constant":
            attribute = producer.attribute[0]
            if attribute.name != "value":
                return np.asarray(onnx.helper.get_attribute_value(attribute))
            tensor = attribute.t
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)


def load_graph(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> OnnxGraph:
    """Read a graph from a file, without the values of large weights.

    Args:
        path: the .onnx file.
        shapes: sizes for inputs whose sizes are free, by the input's name.

    Raises:
        ExportError: it is no ONNX graph, or it does not take these shapes.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    # protobuf's exceptions share no base class but Exception.
    except Exception as error:
        raise ExportError(f"{path} is not a readable ONNX model: {error}") from error
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > LARGE_WEIGHT:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    for value in model.graph.input:
        if shapes is not None and value.name in shapes:
            _bind(path, value, shapes[value.name])
    if shapes is not None:
        # They name the sizes that are bound now.
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    return OnnxGraph(model, name=path.name)


def _bind(path: Path, value: onnx.ValueInfoProto, sizes: Sequence[int]) -> None:
    """Give an input a fixed shape."""
    dimensions = value.type.tensor_type.shape.dim
    fits = len(dimensions) == len(sizes) and all(
        not dimension.HasField("dim_value") or dimension.dim_value == size
        for dimension, size in zip(dimensions, sizes, strict=False)
    )
    if not fits:
        stored = [dimension.dim_param or dimension.dim_value for dimension in dimensions]
        raise ExportError(f"{path}: input {value.name} is {stored} and cannot be {list(sizes)}")
    for dimension, size in zip(dimensions, sizes, strict=True):
        dimension.dim_value = size


def _tensor_type(value: TypeProto) -> TensorType:
    tensor = value.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    sizes = (
        dimension.dim_value if dimension.HasField("dim_value") else None
        for dimension in tensor.shape.dim
    )
    return TensorType(tensor.elem_type, tuple(sizes))


def node_inputs(node: NodeProto) -> list[str]:
    """Names of the tensors that a node reads, those inside its branches included."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            names += [name for name in node_inputs(inner) if name not in inside]
            inside.update(inner.output)
        names += [value.name for value in graph.output if value.name not in inside]
    return names


def subgraphs(node: NodeProto) -> list[onnx.GraphProto]:
    """The branches of If and the bodies of Loop and Scan."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """An attribute's value, text decoded, or the default where the node has none."""
    for each in node.attribute:
        if each.name == name:
            value = onnx.helper.get_attribute_value(each)
            return value.decode() if isinstance(value, bytes) else value
    return default


def dtype_name(dtype: int) -> str:
    """An element type's name in lower case, as `float16`."""
    return str(TensorProto.DataType.Name(dtype)).lower()
