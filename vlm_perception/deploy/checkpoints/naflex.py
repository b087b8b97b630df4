# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP 2 NaFlex, which takes images of any shape, laid out for images of one size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

# Modules of transformers carry no types.
Model = Any


class NaflexEmbeddings(SiglipVisionEmbeddings):
    """SigLIP's embeddings with the positions of SigLIP 2 NaFlex, which fit a grid of any shape."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position embeddings of an image of height x width pixels, [1, patches, W]."""
        side = math.isqrt(self.num_positions)
        grid = self.position_embedding.weight.reshape(side, side, -1)
        patch: Any = self.patch_size
        shape = torch.tensor([[height // patch, width // patch]])
        resize: Any = Siglip2VisionEmbeddings.resize_positional_embeddings
        result: Tensor = resize(grid, shape, embeddings.shape[1])
        return result


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
    fixed.vision_model.embeddings = NaflexEmbeddings(fixed.config.vision_config)
    weights = model.state_dict()
    name = "vision_model.embeddings.patch_embedding.weight"
    flat = weights[name].reshape(-1, patch, patch, vision["num_channels"])
    fixed.load_state_dict(weights | {name: flat.permute(0, 3, 1, 2)})
    return fixed.eval().requires_grad_(False)
