# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a checkpoint's tower for a precision config, and writes the checkpoint with its steps."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from vlm_perception.bundle.bundle import VISION_GRAPH
from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.deploy.checkpoints.bundle_yaml import load_spec
from vlm_perception.deploy.checkpoints.files import CONFIG_NAME, STEPS_NAME
from vlm_perception.deploy.checkpoints.load import Checkpoint, load_checkpoint, round_to_half
from vlm_perception.deploy.compression.int8 import calibrate, flatten
from vlm_perception.deploy.compression.points import Point, layers_of, points_of
from vlm_perception.deploy.compression.precision_config import PrecisionConfig, with_all_groups
from vlm_perception.deploy.compression.steps import PointSteps
from vlm_perception.deploy.compression.trained_steps import write_trained
from vlm_perception.deploy.export.input_geometry import choose_geometry
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.deploy.export.parts import vision_part
from vlm_perception.deploy.export.vision import feature_layers
from vlm_perception.deploy.onnx.writer import write_graph
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import live_heads
from vlm_perception.training.distillation.quantization.objective import (
    LOSS_WEIGHTS,
    Labels,
    QuantizationObjective,
    trained_parameters,
)
from vlm_perception.training.distillation.quantization.tower import QuantizedTower
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.loop import Schedule, fit

FLAT = "flat.onnx"

# Modules of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class Plan:
    """A precision config as it fits one tower, with what calibration gives for it."""

    config: PrecisionConfig
    points: Sequence[Point]
    steps: dict[str, PointSteps]


@dataclass(frozen=True)
class Source:
    """A finished checkpoint and its tower as it is exported."""

    checkpoint: Checkpoint
    labels: Labels
    tower: VisionTower
    image: ImageSpec
    """How it is given images."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its images."""
        return self.image.width, self.image.height

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of its patches."""
        return self.image.columns, self.image.rows

    @classmethod
    def load(cls, path: Path, keep: str) -> Source:
        """Load a checkpoint directory.

        Args:
            path: holds dual/ and bundle.yaml, and perhaps vlm/.
            keep: token pruning, as `export --keep` takes it; empty: none.

        Raises:
            ExportError: it cannot be exported so.
            DistillationError: its weights cannot be written back.
        """
        spec = load_spec(path)
        source = load_checkpoint(path, spec.vision_tower)
        if type(source.dual) is not source.family.model_class:
            raise DistillationError(
                f"{path / 'dual'} is converted before it is exported (NaFlex), so that weights "
                "trained for its graph cannot be written back; quantize it without training"
            )
        labels = Labels(source, spec)
        round_to_half(source.dual.vision_model)
        geometry = choose_geometry(source, spec, ExportOptions())
        image, blocks = geometry.image, len(source.vision_parts.blocks)
        steps = parse_schedule(keep, blocks, image.columns * image.rows) if keep else ()
        tower = source.family.vision(
            source.dual,
            positions=geometry.positions,
            mean=image.mean,
            std=image.std,
            feature_layers=feature_layers(source),
            keep=steps,
        )
        return cls(source, labels, tower, image)

    def write(self, graph: Path) -> None:
        """Write the tower's graph in float."""
        part = vision_part(self.tower, self.image)
        with torch.no_grad():
            write_graph(part.module, part.inputs, part.outputs, graph, part.dynamic)

    def flat(self, config: PrecisionConfig, folder: Path) -> tuple[onnx.ModelProto, Plan]:
        """The graph as it is quantized, also in `folder`, and a plan without steps.

        Raises:
            ExportError: the config does not fit the tower.
        """
        self.write(folder / VISION_GRAPH)
        flatten(folder / VISION_GRAPH, folder / FLAT)
        model = onnx.load(folder / FLAT)
        config = with_all_groups(config, layers_of(model))
        points = points_of(model, config)
        if not points:
            raise DistillationError("the precision config quantizes no layer of dual/'s tower")
        return model, Plan(config, points, {})

    def calibrated(
        self, config: PrecisionConfig, images: Iterable[NDArray[np.uint8]], scratch: Path
    ) -> Plan:
        """What the export finds for a precision config, with images [H, W, 3].

        Raises:
            ExportError: the config does not fit the tower.
        """
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            folder = Path(name)
            _, plan = self.flat(config, folder)
            views = ((f"image {number}", view) for number, view in enumerate(images))
            method, percentile = plan.config.method, plan.config.percentile
            steps = calibrate(folder / FLAT, plan.points, views, method, percentile)
        return Plan(plan.config, plan.points, steps)


def train(
    source: Source,
    plan: Plan,
    ranges: Literal["learned", "moving"],
    batch: Callable[[int], NDArray[np.uint8]],
    schedule: Schedule,
    work: Path,
) -> dict[str, NDArray[np.float32]]:
    """Train a tower for a plan; an interrupted training goes on.

    Args:
        source: what learns, and is its own teacher.
        plan: of its graph.
        ranges: whether steps are learned, or follow moving averages of ranges.
        batch: images [B, H, W, 3] of a step.
        schedule: of the training.
        work: for its state and its log.

    Returns:
        The steps, as a checkpoint has them; the tower is in float again, in the checkpoint's own
        modules.
    """
    objective = QuantizationObjective(source.tower, source.labels)
    # The pooling has copies of weights, which would be lost.
    source.tower.requires_grad_(False)
    for parameter in trained_parameters(source.tower):
        parameter.requires_grad_(True)
    objective.student = QuantizedTower(
        source.tower, plan.points, plan.steps, plan.config, learned=ranges == "learned"
    )
    objective.train()
    losses: Callable[[int], Any] = lambda step: objective(batch(step))  # noqa: E731
    fit(objective, losses, LOSS_WEIGHTS, schedule, work, "quantization")
    objective.eval()
    objective.student.take_out()
    steps = objective.student.steps()
    source.tower.requires_grad_(False)
    _write_back(source)
    return steps


@torch.no_grad()
def _write_back(source: Source) -> None:
    """Give the attentions' weights back to the modules that they were joined of."""
    attentions: Sequence[Model] = list(source.tower.layers.attentions)
    for block, fused in zip(source.checkpoint.vision_parts.blocks, attentions, strict=True):
        attention, inner = block.attention, len(fused.weight) // 3
        live = live_heads(attention)
        size = torch.arange(attention.head_dim)
        rows = (torch.tensor(live)[:, None] * attention.head_dim + size).flatten()
        for number, part in enumerate((attention.query, attention.key, attention.value)):
            here = slice(number * inner, (number + 1) * inner)
            part.weight[rows] = fused.weight[here].clone()
            if part.bias is not None and fused.bias is not None:
                part.bias[rows] = fused.bias[here].clone()
        attention.out.weight[:, rows] = fused.out.weight.clone()
    round_to_half(source.checkpoint.dual.vision_model)


def write_checkpoint(
    source: Source, plan: Plan, steps: dict[str, NDArray[np.float32]], out: Path
) -> None:
    """Write the checkpoint directory of a trained tower; `out` may be there, and is completed."""
    checkpoint = source.checkpoint
    skipped = shutil.ignore_patterns(STEPS_NAME, "precision.yaml")
    shutil.copytree(checkpoint.path, out, ignore=skipped, dirs_exist_ok=True)
    save = partial(_save, checkpoint.path, out)
    save(checkpoint.dual, "dual")
    if checkpoint.vlm is not None and checkpoint.language_tower is None:
        assert checkpoint.vlm_family is not None
        own = getattr(checkpoint.vlm.model, checkpoint.vlm_family.tower)
        weights = checkpoint.dual.vision_model.state_dict()
        own.load_state_dict({name: weights[name] for name in own.state_dict()})
        save(checkpoint.vlm, "vlm")
    write_trained(out, plan.config.model_copy(update={"measured": None}), steps)


def _save(before: Path, after: Path, model: Model, part: str) -> None:
    """Write a model in the precision that its weights were stored in."""
    config = json.loads((before / part / CONFIG_NAME).read_text(encoding="utf-8"))
    half = "float16" in (config.get("dtype"), config.get("torch_dtype"))
    for file in (after / part).glob("model*.safetensors*"):
        file.unlink()
    (nn.Module.half if half else nn.Module.float)(model).save_pretrained(after / part)
    nn.Module.float(model)
