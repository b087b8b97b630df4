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
from collections.abc import Iterable, Mapping, Sequence
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
from vlm_perception.deploy.compression.activation_ranges import Fit, measure_spreads, views_of
from vlm_perception.deploy.compression.int4_decoder import quantize_decoder
from vlm_perception.deploy.compression.points import LINEAR, Point, layers_of, points_of
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    AnyPlan,
    LanguageVisionConfig,
    LayerScales,
    Measured,
    PrecisionConfig,
    read_config,
    with_all_groups,
    write_config,
)
from vlm_perception.deploy.compression.steps import (
    Method,
    PointSteps,
    largest_code,
    symmetric_steps,
    weight_steps,
)
from vlm_perception.deploy.compression.trained_steps import TrainedSteps
from vlm_perception.deploy.onnx.fp16 import to_half_stream
from vlm_perception.deploy.onnx.writer import LARGEST_INLINE, save_graph
from vlm_perception.deploy.validation.images import images_digest


def quantize_graphs(
    directory: Path,
    images: Sequence[Path],
    fits: Mapping[str, Fit],
    config_file: Path | None,
    trained: TrainedSteps | None = None,
) -> tuple[str, ...]:
    """Quantize the graphs of a bundle, and write the config beside them.

    Args:
        directory: holds the graphs in float; those that are quantized are replaced, and for each
            vision tower the graph with an FP16 stream is added.
        images: files to calibrate with.
        fits: for each vision tower's graph how it is given an image.
        config_file: an edited config; absent for the checkpoint's own, or the default.
        trained: steps of the dual encoder's tower that its checkpoint was trained with.

    Returns:
        Names of the graphs that were replaced.

    Raises:
        ExportError: the config does not fit the checkpoint, or a tower gives infinite values.
    """
    if config_file is not None:
        config = read_config(config_file)
    else:
        config = PrecisionConfig() if trained is None else trained.plan
    _check_parts(config, directory, fits)
    calibration = Calibration(images, images_digest(images), config.method, config.percentile)
    replaced = []
    plan, measured = _quantize_tower(
        directory, VISION_GRAPH, fits[VISION_GRAPH], calibration, config, trained
    )
    config = plan.model_copy(update={"measured": measured})
    if measured is not None:
        replaced.append(VISION_GRAPH)
    if LANGUAGE_VISION_GRAPH in fits:
        own, found = _quantize_tower(
            directory,
            LANGUAGE_VISION_GRAPH,
            fits[LANGUAGE_VISION_GRAPH],
            calibration,
            config.language_vision or LanguageVisionConfig(),
        )
        language_vision = own.model_copy(update={"measured": found})
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
    """What the ranges of a tower's inputs are measured on, and how they are found."""

    images: Sequence[Path]
    digest: str
    method: Method
    percentile: float


def _quantize_tower(
    directory: Path,
    graph: str,
    fit: Fit,
    calibration: Calibration,
    plan: AnyPlan,
    trained: TrainedSteps | None = None,
) -> tuple[AnyPlan, Measured | None]:
    """Write both streams of a tower's graph.

    Returns:
        The plan with its groups, and what was measured; None: no layer was to be quantized, and
        none is.
    """
    # Beside the bundle that is being made, where a killed run's traces are removed.
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        flat = Path(scratch) / graph
        flatten(directory / graph, flat)
        model = onnx.load(flat)
        plan = with_all_groups(plan, layers_of(model))
        points = points_of(model, plan)
        if not points:
            return plan, None
        if trained is not None:
            steps = trained.of_points(plan, points, model)
        else:
            views = views_of(calibration.images, fit)
            steps = calibrate(flat, points, views, calibration.method, calibration.percentile)
    quantized = quantize(model, points, steps)
    save_graph(to_half_stream(quantized), directory / FP16_GRAPHS[graph])
    save_graph(quantized, directory / graph)
    layers = {
        point.name: LayerScales(
            input_range=steps[point.name].range,
            input_step=steps[point.name].input,
            weight_steps=_least_and_largest(steps[point.name].weight),
        )
        for point in points
        if "#" not in point.name
    }
    if trained is not None:
        return plan, Measured(trained_steps=trained.digest, layers=layers)
    images = len(calibration.images)
    return plan, Measured(images=images, images_digest=calibration.digest, layers=layers)


def flatten(graph: Path, flat: Path) -> None:
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


def calibrate(
    flat: Path,
    points: Sequence[Point],
    views: Iterable[tuple[str, NDArray[np.uint8]]],
    method: Method,
    percentile: float,
) -> dict[str, PointSteps]:
    """The steps of points, by their names.

    Args:
        flat: the graph in float, with folded constants.
        points: of the graph.
        views: what goes into it, and what it is called.
        method: how ranges are found.
        percentile: as `Spread.range` takes it.

    Raises:
        ExportError: the graph gives infinite values.
    """
    spreads = measure_spreads(flat, sorted({point.tensor for point in points}), views)
    weights = _constants(onnx.load(flat))
    steps = {}
    for point in points:
        largest = spreads[point.tensor].range(method, percentile, point.bits.inputs)
        weight = None
        if point.weight is not None:
            weight = weight_steps(weights[point.weight], point.axis, method, point.bits.weights)
        step = float(symmetric_steps(np.array(largest), point.bits.inputs))
        steps[point.name] = PointSteps(step, largest, weight)
    return steps


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantize(
    model: onnx.ModelProto, points: Sequence[Point], steps: Mapping[str, PointSteps]
) -> onnx.ModelProto:
    """The graph with Q/DQ at these points; `model` is used up."""
    layers = [point for point in points if point.weight is not None]
    for point in layers:
        _cut_weight(model, point, steps[point.name])
    _free_biases(model, {point.node for point in layers})
    quantized = _quantize_layers(model, layers, steps) if layers else model
    _clip_inputs(quantized, layers, steps)
    for point in points:
        if point.weight is None:
            _quantize_input(quantized, point, steps[point.name].input)
    return quantized


def _cut_weight(model: onnx.ModelProto, point: Point, steps: PointSteps) -> None:
    """Cut off what is larger than the largest code."""
    assert steps.weight is not None
    tensor = next(each for each in model.graph.initializer if each.name == point.weight)
    weight = numpy_helper.to_array(tensor)
    most = np.expand_dims(steps.weight * largest_code(point.bits.weights), 1 - point.axis)
    tensor.CopyFrom(numpy_helper.from_array(np.clip(weight, -most, most), tensor.name))


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


def _quantize_layers(
    model: onnx.ModelProto, points: Sequence[Point], steps: Mapping[str, PointSteps]
) -> onnx.ModelProto:
    """Put Q/DQ before the inputs of these nodes, and INT8 weights followed by DQ."""
    int8 = largest_code(8)
    ranges = {
        point.tensor: tuple(np.float32(sign * int8 * steps[point.name].input) for sign in (-1, 1))
        for point in points
    }
    overrides = {
        point.weight: [
            {"axis": point.axis, "scale": step, "zero_point": np.int8(0)}
            for step in _of_weight(steps[point.name])
        ]
        for point in points
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[point.node for point in points],
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


def _clip_inputs(
    model: onnx.ModelProto, points: Sequence[Point], steps: Mapping[str, PointSteps]
) -> None:
    """Cut off inputs of fewer than eight bits before their QuantizeLinear."""
    clipped = {point.tensor: point for point in points if point.bits.inputs < 8}
    for index in range(len(model.graph.node) - 1, -1, -1):
        node = model.graph.node[index]
        if node.op_type == "QuantizeLinear" and node.input[0] in clipped:
            point = clipped[node.input[0]]
            clip = _clip(model, point, steps[point.name].input)
            node.input[0] = clip.output[0]
            model.graph.node.insert(index, clip)


def _quantize_input(model: onnx.ModelProto, point: Point, step: float) -> None:
    """Put Q/DQ before one input of a node, for that node alone."""
    nodes = []
    if point.bits.inputs < 8:
        nodes.append(_clip(model, point, step))
    tensor = nodes[0].output[0] if nodes else point.tensor
    scale, zero = f"{point.name}.step", f"{point.name}.zero"
    model.graph.initializer.append(numpy_helper.from_array(np.array(step, np.float32), scale))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
    codes, values = f"{point.name}.codes", f"{point.name}.values"
    for kind, source, made in (
        ("QuantizeLinear", tensor, codes),
        ("DequantizeLinear", codes, values),
    ):
        name = f"{point.name}/{kind}"
        nodes.append(helper.make_node(kind, [source, scale, zero], [made], name))
    index = next(i for i, node in enumerate(model.graph.node) if node.name == point.node)
    model.graph.node[index].input[point.place] = values
    for node in reversed(nodes):
        model.graph.node.insert(index, node)


def _clip(model: onnx.ModelProto, point: Point, step: float) -> onnx.NodeProto:
    """A node that cuts off what is larger than the largest code."""
    most = largest_code(point.bits.inputs) * step
    bounds = [f"{point.name}.least", f"{point.name}.most"]
    for name, bound in zip(bounds, (-most, most), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array(bound, np.float32), name))
    return helper.make_node(
        "Clip", [point.tensor, *bounds], [f"{point.name}.clipped"], f"{point.name}/Clip"
    )


def _of_weight(steps: PointSteps) -> NDArray[np.float32]:
    assert steps.weight is not None
    return steps.weight


def _least_and_largest(steps: NDArray[np.float32] | None) -> tuple[float, float] | None:
    return None if steps is None else (float(steps.min()), float(steps.max()))
