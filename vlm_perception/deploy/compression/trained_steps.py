# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Steps that a checkpoint was trained with: quantization.safetensors and precision.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.files import STEPS_NAME
from vlm_perception.deploy.compression.points import Point
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    PrecisionConfig,
    TowerPlan,
    quantized_layers,
    read_config,
    write_config,
)
from vlm_perception.deploy.compression.steps import LEAST_STEP, PointSteps, largest_code


@dataclass(frozen=True)
class TrainedSteps:
    """What a checkpoint says of the quantization that it was trained for."""

    file: Path
    digest: str
    plan: PrecisionConfig
    values: Mapping[str, NDArray[np.float32]]
    """By the names of points: `NAME.input`, a number, and `NAME.weight`, one for each output."""

    def of_points(
        self, plan: TowerPlan, points: Sequence[Point], model: onnx.ModelProto
    ) -> dict[str, PointSteps]:
        """The steps of points, by their names.

        Raises:
            ExportError: the plan is not the one that was trained for, or the steps do not fit.
        """
        if difference := _difference(plan, self.plan):
            raise ExportError(
                f"the checkpoint was trained for the precision config beside {self.file}, and this "
                f"one differs: {difference}; export without --precision-config, or train again"
            )
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        steps = {}
        for point in points:
            step = float(self._get(f"{point.name}.input", ()))
            weight = None
            if point.weight is not None:
                shape = (shapes[point.weight][point.axis],)
                weight = self._get(f"{point.name}.weight", shape)
            steps[point.name] = PointSteps(step, step * largest_code(point.bits.inputs), weight)
        return steps

    def _get(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        value = self.values.get(name)
        if value is None or value.shape != shape:
            has = "lacks" if value is None else f"has {value.shape}, not {shape}, for"
            raise ExportError(
                f"{self.file} {has} {name}; it belongs to another tower, or heads were removed "
                "since it was trained (--heads)"
            )
        if not ((value >= LEAST_STEP) & (value.astype(np.float16) == value)).all():
            raise ExportError(f"{self.file}: {name} is no step that FP16 holds; train it again")
        return value


def read_trained(checkpoint: Path) -> TrainedSteps | None:
    """The steps that a checkpoint directory brings, if it was trained with some.

    Raises:
        ExportError: they cannot be read, or there is no precision config beside them.
    """
    file = checkpoint / STEPS_NAME
    if not file.exists():
        return None
    try:
        values = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    plan = read_config(checkpoint / CONFIG_NAME)
    return TrainedSteps(file, file_sha256(file), plan, values)


def write_trained(
    checkpoint: Path, plan: PrecisionConfig, values: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write steps, and the plan that they belong to, into a checkpoint directory."""
    save_file(dict(values), checkpoint / STEPS_NAME)
    write_config(plan, checkpoint / CONFIG_NAME)


def _difference(plan: TowerPlan, trained: TowerPlan) -> str:
    """Where two plans quantize otherwise; empty: nowhere."""
    ours, theirs = quantized_layers(plan), quantized_layers(trained)
    for layer in (*theirs, *ours):
        if ours.get(layer) != theirs.get(layer):
            return f"{layer} is {_told(ours.get(layer))}, and was {_told(theirs.get(layer))}"
    if plan.attention_products != trained.attention_products:
        return "attention_products"
    return ""


def _told(bits: object) -> str:
    return "float" if bits is None else f"quantized to {bits}"
