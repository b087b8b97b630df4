# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A student cut from its teacher, which keeps what it can of it.

TinyCLIP (Wu et al., https://arxiv.org/abs/2309.12314, section 3.2) inherits weights so: layers at
even distances, and of each the parts that matter most. What matters is ranked as `export --heads`
does, by how much the output changes with a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.compression.gates import importance
from vlm_perception.deploy.compression.heads import prune_heads
from vlm_perception.modeling.pixel_scaling import read_normalisation
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.training.distillation.recipe import CutStudent, DistillationError

# Models of transformers carry no types.
Model = Any


def cut(reader: DualReader, folder: Path, start: CutStudent, images: Tensor) -> Model:
    """Cut a dual encoder down, in place.

    Layers and neurons are gone, and the configuration says so. No configuration of transformers can
    say that heads are missing: their weights are zero, stay so in training, and the export leaves
    them out.

    Args:
        reader: has the teacher.
        folder: its checkpoint.
        start: what stays.
        images: uint8 [N, H, W, 3], to rank its parts with.

    Returns:
        Its model.

    Raises:
        DistillationError: it has fewer layers than the student shall have.
    """
    model, family = reader.model, reader.family
    for name, wanted in (("vision", start.vision_layers), ("text", start.text_layers)):
        tower, config = getattr(model, f"{name}_model"), getattr(model.config, f"{name}_config")
        config.num_hidden_layers = _spread(tower.encoder, wanted, name)
        tower.config.num_hidden_layers = config.num_hidden_layers
    parts = family.vision.parts(model.vision_model)
    patch, scaling = parts.positions.patch, read_normalisation(folder)
    graph: VisionTower = family.vision(
        model,
        positions=parts.positions.of_grid(images.shape[2] // patch, images.shape[1] // patch),
        mean=scaling.mean,
        std=scaling.std,
        feature_layers=[-1],
    )
    if start.heads < 1:
        prune_heads([block.attention for block in parts.blocks], graph, images, start.heads)
    if start.neurons < 1:
        readers: list[Model] = [mlp.fc2 for mlp in graph.layers.mlps]
        gates = [torch.ones(reader.in_features) for reader in readers]
        scores = importance(graph, readers, gates, images, torch.Generator().manual_seed(0))
        _keep_neurons(model, "vision", scores, start.neurons)
        layers = model.text_model.encoder.layers
        _keep_neurons(model, "text", [_size(layer.mlp) for layer in layers], start.neurons)
    return model


def _spread(encoder: Model, wanted: int, name: str) -> int:
    """Keep layers at even distances, the first and the last among them."""
    there = len(encoder.layers)
    if wanted > there:
        raise DistillationError(
            f"the teacher's {name} tower has {there} layers, and the student shall keep {wanted}; "
            f"choose {name}_layers up to {there}"
        )
    places = torch.linspace(0, there - 1, wanted).round().int().tolist()
    encoder.layers = nn.ModuleList(encoder.layers[place] for place in places)
    return wanted


def _size(mlp: Model) -> Tensor:
    """How large what each neuron adds can be, where no image says how much it matters."""
    size: Tensor = mlp.fc1.weight.detach().norm(dim=1) * mlp.fc2.weight.detach().norm(dim=0)
    return size


@torch.no_grad()
def _keep_neurons(model: Model, name: str, scores: Sequence[Tensor], share: float) -> None:
    tower = getattr(model, f"{name}_model")
    count = max(1, round(share * len(scores[0])))
    mlps = [layer.mlp for layer in tower.encoder.layers]
    ranked = list(scores)
    # SigLIP's pooling head has one too, whose size the configuration says together with theirs.
    if pooling := getattr(getattr(tower, "head", None), "mlp", None):
        mlps.append(pooling)
        ranked.append(_size(pooling))
    for mlp, score in zip(mlps, ranked, strict=True):
        kept = score.topk(count).indices.sort().values
        first, second = mlp.fc1, mlp.fc2
        first.weight, first.bias = (nn.Parameter(part[kept]) for part in (first.weight, first.bias))
        second.weight = nn.Parameter(second.weight[:, kept])
        first.out_features = second.in_features = count
    getattr(model.config, f"{name}_config").intermediate_size = count
    tower.config.intermediate_size = count
