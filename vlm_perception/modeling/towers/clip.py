# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP (https://arxiv.org/abs/2103.00020): class token, projections, causal text tower."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlm_perception.modeling.token_pruning import class_attention
from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.modeling.towers.trunk import TowerParts
from vlm_perception.modeling.towers.vision_tower import VisionTower

# Modules and configurations of transformers carry no types.
Module = Any


class ClipVision(VisionTower):
    """The class token is the image; a patch is read through the value path of the last layer.

    The latter as in MaskCLIP (https://arxiv.org/abs/2112.01071, section 3.2).
    """

    name = "clip"
    model_types = frozenset({"clip_vision_model"})
    class_tokens = 1
    whole_layers = 1

    @classmethod
    def embedding_width(cls, config: Module) -> int:
        """That of the projections."""
        return int(config.projection_dim)

    @classmethod
    def parts(cls, tower: Module) -> TowerParts:
        """Those of every tower, and the class token and the norm before the layers."""
        token = tower.embeddings.class_embedding.detach().reshape(1, 1, -1)
        return replace(super().parts(tower), class_token=token, first_norm=tower.pre_layrnorm)

    def take_over(self, model: Module) -> None:
        """Take the projection."""
        self.projection = model.visual_projection

    def rank(self, hidden: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """By the attention of the class token."""
        return class_attention(query, key)

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Project the class token, and what each patch reads of itself in the last layer."""
        pooled = self.projection(self.post_layernorm(states[-1][:, 0]))
        normed = self.layers.first_norms[-1](states[-2][:, 1:])
        last: Module = self.layers.attentions[-1]
        read = last.alone(normed)
        return pooled, self.projection(self.post_layernorm(read))


class ClipText(TextTower):
    """A text is read at its end token, and no token sees a later one; labels compete."""

    score = "softmax"
    reads_end = True

    def take_over(self, model: Module, length: int) -> None:
        """Take the projection and the end token."""
        self.projection = model.text_projection
        self.mask = nn.Buffer(torch.full((length, length), -1e9).triu(1), persistent=False)
        self.eos_token_id = model.text_model.config.eos_token_id

    def places(self, input_ids: Tensor) -> Tensor:
        """The end token."""
        ends: Tensor = (input_ids == self.eos_token_id).long()
        return ends.argmax(dim=-1)

    def pool(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """Read the end token."""
        index = self.places(input_ids).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, index)[:, 0]
