# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP 2 NaFlex, which takes images of any shape, laid out for images of one size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

from vlm_perception.modeling.towers.siglip import SiglipVision
from vlm_perception.modeling.towers.trunk import TowerParts

# Modules of transformers carry no types.
Model = Any


class NaflexVision(SiglipVision):
    """SigLIP's tower, trained on grids of any shape, for each of which its positions are resized.

    It reads a SiglipModel, as `at_one_resolution` gives it.
    """

    @classmethod
    def parts(cls, tower: Model) -> TowerParts:
        """Those of SigLIP, with positions that fit a grid of any shape."""
        parts = super().parts(tower)
        positions = parts.positions

        def resize_to(columns: int, rows: int) -> Tensor:
            grid = positions.table.reshape(positions.side, positions.side, -1)
            shape = torch.tensor([[rows, columns]])
            resize: Any = Siglip2VisionEmbeddings.resize_positional_embeddings
            resized: Tensor = resize(grid, shape, rows * columns)
            return resized

        return replace(parts, positions=replace(positions, resize=resize_to, for_any_grid=True))


def at_one_resolution(model: Model) -> Model:
    """A Siglip2Model as the SiglipModel that gives the same for images of one size.

    NaFlex multiplies flattened patches with a matrix; that is SigLIP's convolution in another
    order (row, column, channel). The square of its position embeddings is the model's own size.
    """
    text, vision = model.config.text_config.to_dict(), model.config.vision_config.to_dict()
    patch = vision["patch_size"]
    vision["image_size"] = math.isqrt(vision["num_patches"]) * patch
    for part in (text, vision):
        del part["model_type"]
    fixed: Model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    weights = model.state_dict()
    name = "vision_model.embeddings.patch_embedding.weight"
    flat = weights[name].reshape(-1, patch, patch, vision["num_channels"])
    fixed.load_state_dict(weights | {name: flat.permute(0, 3, 1, 2)})
    return fixed.eval().requires_grad_(False)
