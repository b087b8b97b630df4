# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Turns a graph that computes in FP32 into one that computes in FP16."""

from __future__ import annotations

import copy

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from vlm_perception.common.export_error import ExportError

LARGEST_HALF = 65504.0


def to_half_stream(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every float in the graph becomes FP16; inputs and outputs keep their types.

    The L2 norms that end the graph stay FP32: the sum of squares of a long vector leaves the range
    of FP16.

    Raises:
        ExportError: a constant is too large for FP16.
    """
    half = copy.deepcopy(model)
    graph = half.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest = abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0)
            if not largest <= LARGEST_HALF:
                raise ExportError(
                    f"{tensor.name} contains {largest:g}, which FP16 cannot represent; export this "
                    "tower with --precision float16-weights"
                )
    outputs = [copy.deepcopy(value) for value in graph.output]
    norms = _final_norms(graph)
    inner = {name for node in norms for name in node.output}
    ends = sorted({node.input[0] for node in norms})
    whole = [value for value in outputs if value.name not in inner]
    for node in norms:
        graph.node.remove(node)
    for value in [value for value in graph.value_info if value.name in inner]:
        graph.value_info.remove(value)
    del graph.output[:]
    for name in ends:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        graph.output.append(value)
    graph.output.extend(whole)
    # Any operator: the library's own list of exceptions gives graphs that are not valid.
    result: onnx.ModelProto = convert_float_to_float16(half, keep_io_types=True, op_block_list=[])
    result.graph.node.extend(norms)
    del result.graph.output[:]
    result.graph.output.extend(outputs)
    return result


def _final_norms(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Copies of the ReduceL2 and Div that give the outputs, in their order."""
    producers = {name: node for node in graph.node for name in node.output}
    norms: list[onnx.NodeProto] = []
    for output in graph.output:
        division = producers.get(output.name)
        if division is None or division.op_type != "Div":
            continue
        length = producers.get(division.input[1])
        if length is not None and length.op_type == "ReduceL2":
            norms += [length, division]
    return [copy.deepcopy(node) for node in norms]
