# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quantizes vision towers: INT8 where the precision config says so, each written twice.

One layout of quantization points serves CPU engines and TensorRT: symmetric INT8 with zero point 0
for inputs and weights, a step per output channel for weights, and biases that stay float. The graph
around it computes in FP32 in one file and in FP16 in the other; the steps are numbers that FP16
holds, so that both files quantize to the same integers.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    quant_pre_process,
)

from vlm_perception.bundle.bundle import (
    DECODER_GRAPH,
    FP16_GRAPHS,
    LANGUAGE_VISION_GRAPH,
    VISION_GRAPH,
)
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.compression.activation_ranges import Fit, measure_ranges
from vlm_perception.deploy.compression.int4_decoder import quantize_decoder
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    AnyGroup,
    GroupConfig,
    LanguageGroupConfig,
    LanguageVisionConfig,
    LayerScales,
    Measured,
    PrecisionConfig,
    check_groups,
    default_groups,
    quantized_layers,
    read_config,
    write_config,
)
from vlm_perception.deploy.onnx.fp16 import to_half_stream
from vlm_perception.deploy.onnx.writer import LARGEST_INLINE, layer_of, save_graph
from vlm_perception.deploy.validation.images import images_digest

LINEAR = ("Gemm", "MatMul")
WEIGHTED = (*LINEAR, "Conv")
LARGEST_INT8 = 127
# Below it FP16 loses digits.
LEAST_STEP = 2.0**-14


def quantize_graphs(
    directory: Path, images: Sequence[Path], fits: Mapping[str, Fit], config_file: Path | None
) -> tuple[str, ...]:
    """Quantize the graphs of a bundle, and write the config beside them.

    Args:
        directory: holds the graphs in float; those that are quantized are replaced, and for each
            vision tower the graph with an FP16 stream is added.
        images: files to calibrate with.
        fits: for each vision tower's graph how it is given an image.
        config_file: an edited config; absent for the default.

    Returns:
        Names of the graphs that were replaced.

    Raises:
        ExportError: the config does not fit the checkpoint, or a tower gives infinite values.
    """
    config = PrecisionConfig() if config_file is None else read_config(config_file)
    _check_parts(config, directory, fits)
    calibration = Calibration(images, images_digest(images), config.percentile)
    replaced = []
    groups, measured = _quantize_tower(
        directory, VISION_GRAPH, fits, calibration, config.groups, GroupConfig
    )
    config = config.model_copy(update={"groups": groups, "measured": measured})
    if measured is not None:
        replaced.append(VISION_GRAPH)
    if LANGUAGE_VISION_GRAPH in fits:
        wanted = config.language_vision or LanguageVisionConfig()
        own, found = _quantize_tower(
            directory, LANGUAGE_VISION_GRAPH, fits, calibration, wanted.groups, LanguageGroupConfig
        )
        language_vision = LanguageVisionConfig(groups=own, measured=found)
        config = config.model_copy(update={"language_vision": language_vision})
        if found is not None:
            replaced.append(LANGUAGE_VISION_GRAPH)
    if not replaced:
        raise ExportError(
            "the precision config quantizes no layer; set a group to int8, or export with "
            "--precision float16-weights"
        )
    write_config(config, directory / CONFIG_NAME)
    if config.decoder == "int4-weights":
        quantize_decoder(directory / DECODER_GRAPH)
        replaced.append(DECODER_GRAPH)
    return tuple(replaced)


def _check_parts(config: PrecisionConfig, directory: Path, fits: Mapping[str, Fit]) -> None:
    """Refuse a config for parts that the checkpoint does not have."""
    if config.decoder != "float16-weights" and not (directory / DECODER_GRAPH).is_file():
        raise ExportError(
            f"the precision config sets decoder to {config.decoder}, but the checkpoint has no "
            "vlm/; leave it at float16-weights"
        )
    if config.language_vision is not None and LANGUAGE_VISION_GRAPH not in fits:
        raise ExportError(
            "the precision config contains language_vision, but the language model has no vision "
            "tower of its own; remove that part"
        )


@dataclass(frozen=True)
class Calibration:
    """What the ranges of a tower's inputs are measured on."""

    images: Sequence[Path]
    digest: str
    percentile: float


def _quantize_tower(
    directory: Path,
    graph: str,
    fits: Mapping[str, Fit],
    calibration: Calibration,
    groups: dict[str, AnyGroup],
    kind: type[AnyGroup],
) -> tuple[dict[str, AnyGroup], Measured | None]:
    """Write both streams of a tower's graph.

    Returns:
        The groups, and what was measured; None: no layer was to be quantized, and none is.
    """
    # Beside the bundle that is being made, where a killed run's traces are removed.
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        flat = Path(scratch) / graph
        _flatten(directory / graph, flat)
        model = onnx.load(flat)
        layers = _layers(model)
        groups = groups or default_groups(tuple(layers), kind)
        check_groups(groups, {layer: nodes[0].op_type in LINEAR for layer, nodes in layers.items()})
        chosen = quantized_layers(groups)
        if not chosen:
            return groups, None
        nodes = [node for layer in chosen for node in layers[layer]]
        inputs = sorted({node.input[0] for node in nodes})
        ranges = measure_ranges(
            flat, inputs, calibration.images, fits[graph], calibration.percentile
        )
    input_steps = {name: float(symmetric_steps(np.array(ranges[name]))) for name in inputs}
    weight_steps = {node.input[1]: _weight_steps(model, node) for node in nodes}
    _free_biases(model, {node.name for node in nodes})
    quantized = _quantize(model, nodes, input_steps, weight_steps)
    save_graph(to_half_stream(quantized), directory / FP16_GRAPHS[graph])
    save_graph(quantized, directory / graph)
    scales = {
        layer: LayerScales(
            input_range=ranges[layers[layer][0].input[0]],
            input_step=input_steps[layers[layer][0].input[0]],
            weight_steps=_least_and_largest(weight_steps[layers[layer][0].input[1]]),
        )
        for layer in chosen
    }
    images = len(calibration.images)
    return groups, Measured(images=images, images_digest=calibration.digest, layers=scales)


def _flatten(graph: Path, flat: Path) -> None:
    """Fold the casts after the weights and fuse what ONNX Runtime can; infer all shapes."""
    data = graph.with_name(f"{graph.name}.data")
    # FP16 weights become twice as large; protobuf ends at 2 GiB.
    large = data.is_file() or 2 * graph.stat().st_size > LARGEST_INLINE
    quant_pre_process(
        graph,
        flat,
        # Shapes are fixed, and it fails on the type of an image.
        skip_symbolic_shape=True,
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        external_data_location=f"{flat.name}.data",
    )


def _layers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes with constant weights, by the path of their module."""
    constants = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants and layer_of(node):
            layers.setdefault(layer_of(node), []).append(node)
    return layers


def symmetric_steps(largest: NDArray[Any]) -> NDArray[np.float32]:
    """Step sizes of symmetric INT8 quantization that FP16 represents exactly.

    Args:
        largest: the largest magnitudes to represent, of any shape.

    Returns:
        For each the smallest such step with which it does not overflow, at least LEAST_STEP.
    """
    exact = np.maximum(largest / LARGEST_INT8, LEAST_STEP)
    half = exact.astype(np.float16)
    up = np.nextafter(half, np.float16(np.inf))
    return np.where(half < exact, up, half).astype(np.float32)


def _weight_steps(model: onnx.ModelProto, node: onnx.NodeProto) -> NDArray[np.float32]:
    tensor = next(each for each in model.graph.initializer if each.name == node.input[1])
    weight = numpy_helper.to_array(tensor)
    return symmetric_steps(np.abs(weight).max(axis=1 - _channel_axis(node)))


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a weight matrix that counts the outputs."""
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1


def _free_biases(model: onnx.ModelProto, names: set[str]) -> None:
    """Make the bias of each of these Gemm nodes an Add of its own.

    ONNX Runtime computes a Gemm with quantized inputs in INT8 when its bias is INT32, which
    TensorRT refuses, or when there is none.
    """
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name in names and len(node.input) == 3:
            product, output, bias = f"{node.output[0]}.product", node.output[0], node.input[2]
            del node.input[2:]
            node.output[0] = product
            nodes.append(helper.make_node("Add", [product, bias], [output], f"{node.name}/bias"))
    ordered = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _quantize(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    input_steps: Mapping[str, float],
    weight_steps: Mapping[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    """Put Q/DQ before the inputs of these nodes, and INT8 weights followed by DQ."""
    ranges = {
        name: (np.float32(-LARGEST_INT8 * step), np.float32(LARGEST_INT8 * step))
        for name, step in input_steps.items()
    }
    axes = {node.input[1]: _channel_axis(node) for node in nodes}
    overrides = {
        name: [{"axis": axes[name], "scale": step, "zero_point": np.int8(0)} for step in steps]
        for name, steps in weight_steps.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=list(LINEAR),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(LINEAR),
            "TensorQuantOverrides": overrides,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    return quantized


def _least_and_largest(steps: NDArray[np.float32]) -> tuple[float, float]:
    return float(steps.min()), float(steps.max())
