# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What quantization-aware training learns: to say what the tower said in float."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.bundle.label_embeddings import own_prompts
from vlm_perception.deploy.checkpoints.bundle_yaml import BundleSpec
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.training.distillation.quantization.tower import QuantizedTower

LOSS_WEIGHTS = {"pooled": 10.0, "patches": 5.0, "tokens": 1.0, "labels": 10.0}


class Labels:
    """A bundle's own labels as its images are scored by them."""

    def __init__(self, source: Checkpoint, spec: BundleSpec) -> None:
        """Embed the labels with the checkpoint's text tower."""
        reader = DualReader(source.path / "dual")
        tower = source.family.text(reader.model, source.text_length)
        with torch.no_grad():
            prompts = own_prompts(spec.vocabulary)
            means = [tower(reader.ids(texts)).mean(dim=0) for texts in prompts.values()]
        self.names = tuple(prompts)
        self.embeddings = F.normalize(torch.stack(means), dim=-1)
        self.scale = float(source.dual.logit_scale.exp())
        self.bias = source.family.text.logit_bias(source.dual)
        self.compete = source.family.text.score == "softmax"

    def loss(self, pooled: Tensor, target: Tensor) -> Tensor:
        """How far the probabilities of the labels are from those of the target; 0: nowhere."""
        ours, theirs = (
            each @ self.embeddings.T * self.scale + self.bias for each in (pooled, target)
        )
        if self.compete:
            return F.kl_div(
                ours.log_softmax(-1), theirs.log_softmax(-1), reduction="batchmean", log_target=True
            )
        likely = theirs.sigmoid()
        least = F.binary_cross_entropy_with_logits(theirs, likely)
        return F.binary_cross_entropy_with_logits(ours, likely) - least


class QuantizationObjective(nn.Module):
    """A quantized tower beside the same tower in float, as it was."""

    def __init__(self, tower: VisionTower, labels: Labels) -> None:
        """Keep the tower as it is now."""
        super().__init__()
        # In a list: what does not learn is in no checkpoint of the training.
        self._whole = [copy.deepcopy(tower).requires_grad_(False)]
        self._labels = labels
        self.student: QuantizedTower

    def forward(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Losses by name for images [B, H, W, 3]."""
        pixels = torch.from_numpy(images)
        with torch.no_grad():
            *target, there = self._whole[0].look(pixels)
        pooled, tokens, patches, index = self.student(pixels)
        # Both prune by themselves: what both have left is compared.
        same = index.unsqueeze(2) == there.unsqueeze(1)
        known = same.any(dim=2)
        left = index.shape[1]
        theirs = [same.float() @ each[:, :left] for each in target[1:]]
        apart = (1 - (patches[:, :left] * theirs[1]).sum(dim=-1))[known]
        error = (tokens[:, :left] - theirs[0])[known].square().sum()
        return {
            "pooled": (1 - (pooled * target[0]).sum(dim=-1)).mean(),
            "patches": apart.mean(),
            "tokens": error / theirs[0][known].square().sum(),
            "labels": self._labels.loss(pooled, target[0]),
        }


def trained_parameters(tower: VisionTower) -> Sequence[nn.Parameter]:
    """What of a tower learns: all but the pooling, which is laid out for the graph."""
    parts = (tower.patch_embedding, tower.layers, tower.post_layernorm)
    return [parameter for part in parts for parameter in part.parameters()]
