# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: what it computes is what the exported graph computes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from vlm_perception.bundle.bundle import VISION_GRAPH
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.load import load_checkpoint
from vlm_perception.deploy.compression.int8 import quantize_graphs
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    AttentionProducts,
    Bits,
    PrecisionConfig,
    read_config,
    write_config,
)
from vlm_perception.deploy.compression.trained_steps import read_trained
from vlm_perception.training.distillation.quantization.fake import half_steps
from vlm_perception.training.distillation.quantization.train import Source
from vlm_perception.training.distillation.run import distil

HARD = PrecisionConfig(
    method="mse", bits=Bits(weights=4, inputs=5), attention_products=AttentionProducts(bits=5)
)
KEEP = "0.6@1"


def images(source: Source, count: int) -> NDArray[np.uint8]:
    width, height = source.size
    coarse = np.random.default_rng(count).integers(0, 256, (count, 5, 5, 3), np.uint8)
    return coarse.repeat(height // 5 + 1, 1).repeat(width // 5 + 1, 2)[:, :height, :width]


@dataclass
class Made:
    """A checkpoint before a run of `distil`, and after."""

    before: Path
    after: Path


@pytest.fixture(scope="module")
def made(siglip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, before = tmp_path_factory.mktemp("quantization"), siglip_checkpoint
    write_config(HARD, folder / "hard.yaml")
    recipe = {
        "name": "quantized",
        "images": {"kind": "road-world", "count": 8},
        "quantization": {
            "plan": "hard.yaml",
            "checkpoint": str(before),
            "keep": KEEP,
            "calibration_images": 8,
            "training": {"steps": 3, "batch": 4, "rate": 3e-3},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (after,) = distil(folder / "recipe.yaml", folder / "out")
    return Made(before, after)


def check(parity: dict[str, float]) -> None:
    assert parity["codes_apart"] <= 1e-4
    assert parity["codes_apart_by"] <= 1
    assert parity["layer_error"] <= 1e-5
    assert parity["cosine_mean"] >= 0.9999
    assert parity["cosine_min"] <= parity["cosine_p1"] <= 1.0 + 1e-6
    assert parity["equal_token_index"] >= 0.5


def test_torch_and_onnx_runtime_compute_alike(made: Made) -> None:
    told = json.loads((made.after / "parity.json").read_text(encoding="utf-8"))
    assert told.keys() == {"dense", "pruned"}
    for parity in told.values():
        check(parity)


def test_training_moves_steps_and_weights_of_the_tower_alone(made: Made) -> None:
    trained = read_trained(made.after)
    assert trained is not None
    assert trained.plan.groups
    before, after = (
        load_file(folder / "dual" / "model.safetensors") for folder in (made.before, made.after)
    )
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name].half(), after[name].half())}
    assert moved
    assert all(name.startswith("vision_model.") and ".head." not in name for name in moved)
    assert "vision_model.encoder.layers.1.self_attn.k_proj.weight" in moved


def test_export_takes_the_trained_steps_and_no_other_plan(made: Made, tmp_path: Path) -> None:
    source, own = Source.load(made.after, KEEP), read_trained(made.after)
    assert own is not None
    source.write(tmp_path / VISION_GRAPH)
    float_graph = shutil.copy(tmp_path / VISION_GRAPH, tmp_path / "float.onnx")
    photo = tmp_path / "photo.png"
    Image.fromarray(images(source, 1)[0]).save(photo)
    fits = {VISION_GRAPH: lambda pixels: pixels[np.newaxis]}
    quantize_graphs(tmp_path, [photo], fits, None, own)
    written = read_config(tmp_path / CONFIG_NAME)
    assert written.measured is not None
    assert written.measured.trained_steps == own.digest
    for name, scales in written.measured.layers.items():
        assert scales.input_step == float(own.values[f"{name}.input"])
    other = yaml.safe_load((tmp_path / CONFIG_NAME).read_text(encoding="utf-8"))
    other["bits"]["inputs"] = 6
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    shutil.copy(float_graph, tmp_path / VISION_GRAPH)
    with pytest.raises(ExportError, match=r"beside .*differs: layers"):
        quantize_graphs(tmp_path, [photo], fits, tmp_path / "other.yaml", own)


def test_the_language_model_still_reads_the_same_tower(made: Made) -> None:
    whole = load_checkpoint(made.after, "same")
    assert whole.vlm is not None
    assert whole.language_tower is None


def test_steps_are_those_of_the_export() -> None:
    exact = torch.tensor([1e-9, 2.0**-14, 0.0123, 0.5, 0.50001])
    steps = half_steps(exact)
    assert torch.equal(steps.half().float(), steps)
    assert torch.equal(steps[[1, 3]], exact[[1, 3]])
    assert (steps >= exact * (1 - 1e-6)).all()
    assert (steps[2:] <= exact[2:] * 1.001).all()
