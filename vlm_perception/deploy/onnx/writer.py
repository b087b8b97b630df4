# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a network as an ONNX graph whose weights are stored in FP16."""

from __future__ import annotations

import ast
import contextlib
import copy
import gc
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from vlm_perception.common.export_error import ExportError

# The newest that TensorRT 10.3 and ONNX Runtime 1.18 both read, and the first with Gelu.
OPSET = 20
# Smaller tensors gain nothing from FP16.
SMALLEST_HALF = 256
# protobuf ends at 2 GiB; larger graphs keep their weights in a file of their own.
LARGEST_INLINE = 1 << 30
# The exporter does not see that an output's name is also that of a value inside the graph.
OUTPUT_PREFIX = "output."
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Where the exporter writes the modules that a node is in, outermost first.
SCOPES = "pkg.torch.onnx.name_scopes"


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    release: Callable[[], None] = lambda: None,
) -> None:
    """Export a module.

    Args:
        module: takes the inputs in their order and gives the outputs in theirs.
        inputs: an example of each input.
        outputs: names of the outputs.
        path: the .onnx file to write.
        dynamic: for each input the axes that are free, with their names.
        release: called when the graph has weights of its own, to give back the module's.

    Raises:
        ExportError: the exporter could not make a graph of the module.
    """
    shapes = tuple(dict((dynamic or {}).get(name, {})) for name in inputs)
    # Its warnings are about packages that are not needed here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[f"{OUTPUT_PREFIX}{name}" for name in outputs],
                dynamic_shapes=shapes,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
    # torch raises many kinds here.
    except Exception as error:
        raise ExportError(f"{path.name} cannot be exported: {error}") from error
    if program is None:
        raise ExportError(f"{path.name} cannot be exported: torch returned no ONNX program")
    graph = program.model
    _own_initializers(graph)
    # It holds the module's weights, too; its nodes and values refer to each other.
    del program
    gc.collect()
    release()
    model = ir.to_proto(graph)
    del graph
    gc.collect()
    _rename_outputs(model)
    _name_nodes(model)
    _forget_sources(model)
    _cast_back(model)
    save_graph(model, path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph and check it; FP32 weights that FP16 can hold are stored so."""
    store_half(model)
    # protobuf cannot even count a message above 2 GiB.
    large = sum(map(_bytes_of, model.graph.initializer)) > LARGEST_INLINE
    data = path.with_name(f"{path.name}.data")
    # onnx would append to a file that is there.
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=large, location=data.name)
    # As a file: a model in memory would be copied twice for it.
    onnx.checker.check_model(path)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    size: int = math.prod(tensor.dims) * dtype.itemsize
    return size


def store_half(model: onnx.ModelProto) -> None:
    """Store FP32 weights as FP16 followed by a cast, where that loses nothing.

    The engine folds the casts when it loads the graph, so that it computes in FP32.
    """
    # TensorRT takes the steps of Q/DQ as constants only.
    steps = {node.input[1] for node in model.graph.node if node.op_type in QUANTIZERS}
    rounded = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in steps:
            continue
        half = _as_half(numpy_helper.to_array(tensor))
        if half is not None:
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
            rounded.append(tensor)
    _add_casts(model, rounded)


def _own_initializers(model: ir.Model) -> None:
    """Copy the module's weights, rounded as by `store_half`: a message gives no memory back."""
    for value in model.graph.initializers.values():
        weight = value.const_value
        if weight is None:
            continue
        values = weight.numpy()
        half = _as_half(values) if weight.dtype == ir.DataType.FLOAT else None
        value.const_value = ir.Tensor(values.copy() if half is None else half, name=value.name)


def _cast_back(model: onnx.ModelProto) -> None:
    """Add the casts behind what `_own_initializers` has rounded: the rest of a graph is FP32."""
    half = onnx.TensorProto.FLOAT16
    _add_casts(model, [each for each in model.graph.initializer if each.data_type == half])


def _as_half(values: NDArray[Any]) -> NDArray[np.float16] | None:
    """Weights in FP16; None where that loses something or gains nothing."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    whole = values.size >= SMALLEST_HALF and np.array_equal(half.astype(np.float32), values)
    return half if whole else None


def _add_casts(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    """Rename FP16 tensors and put a cast to FP32 behind each, which has its old name."""
    casts = []
    for tensor in tensors:
        name = tensor.name
        tensor.name = f"{name}.half"
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def restore_float(model: onnx.ModelProto) -> None:
    """Undo `store_half`: weights as FP32, without casts."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        half = tensors.get(node.input[0]) if node.op_type == "Cast" else None
        if half is None:
            nodes.append(copy.deepcopy(node))
            continue
        values = numpy_helper.to_array(half).astype(np.float32)
        half.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_outputs(model: onnx.ModelProto) -> None:
    """Give the outputs their names, and values inside the graph that have them another."""
    names = {value.name.removeprefix(OUTPUT_PREFIX) for value in model.graph.output}

    def renamed(name: str) -> str:
        return f"inner.{name}" if name in names else name.removeprefix(OUTPUT_PREFIX)

    for node in model.graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for value in (*model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.name = renamed(value.name)


def layer_of(node: onnx.NodeProto) -> str:
    """Path of the module that a node comes from, as `layers.mlps.0.fc1`; empty for none."""
    return str(node.name).partition("/")[0]


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name each node after its module, as `layers.mlps.0.fc1/Gemm`; duplicates get a number."""
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(SCOPES)
        # The module's path precedes the name of the call.
        module = ast.literal_eval(scopes)[-2] if scopes else ""
        # What the exporter itself adds has a name that is no module's.
        module = "" if module.startswith("_") else module
        name = f"{module}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop stack traces and paths of this machine, which the exporter writes into each node."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
