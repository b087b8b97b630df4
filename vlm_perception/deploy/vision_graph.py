# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision tower as it is exported: pixels in, pooled embedding, tokens and patches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.deploy.towers import Layers, normalise

# Modules of transformers carry no types.
Module = Any


class VisionGraph(nn.Module):
    """Image [1, H, W, 3] uint8 -> pooled [1, D], tokens [1, K, V], patches [1, K, D].

    `pooled` is the image in text space, L2-normalised. `tokens` are the features that the
    language model's projector reads. `patches` are the single patches in text space, normalised:
    SigLIP's pooling head applied to each token as if it were attended alone, and for CLIP the
    value path of the last layer (MaskCLIP, https://arxiv.org/abs/2112.01071, section 3.2).
    """

    def __init__(
        self,
        model: Module,
        *,
        positions: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        feature_layers: Sequence[int],
        drop_class_token: bool,
    ) -> None:
        """Lay out a dual encoder's vision tower for the patches that have these positions."""
        super().__init__()
        tower = model.vision_model
        embeddings = tower.embeddings
        self.patch_embedding = embeddings.patch_embedding
        self.layers = Layers(tower.encoder.layers)
        self.post_layernorm = tower.post_layernorm
        self.clip = hasattr(embeddings, "class_embedding")
        self.feature_layers = tuple(feature_layers)
        self.first_feature = 1 if drop_class_token and self.clip else 0
        scale = torch.tensor([1.0 / (255.0 * value) for value in std])
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self.scale = nn.Buffer(scale.reshape(1, 3, 1, 1))
        self.shift = nn.Buffer(shift.reshape(1, 3, 1, 1))
        self.positions = nn.Buffer(positions.detach().clone())
        if self.clip:
            self.pre_layernorm = tower.pre_layrnorm
            self.class_token = nn.Buffer(embeddings.class_embedding.detach().reshape(1, 1, -1))
            self.projection = model.visual_projection
        else:
            self.head = PoolingHead(tower.head)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the tower."""
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        hidden = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.clip:
            hidden = torch.cat([self.class_token, hidden], dim=1)
        hidden = hidden + self.positions
        if self.clip:
            hidden = self.pre_layernorm(hidden)
        states = self.layers(hidden)
        chosen = [states[layer][:, self.first_feature :] for layer in self.feature_layers]
        tokens = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)
        pooled, patches = self._clip_head(states) if self.clip else self._siglip_head(states)
        return normalise(pooled), tokens, normalise(patches)

    def _siglip_head(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled, patches = self.head(self.post_layernorm(states[-1]))
        return pooled, patches

    def _clip_head(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.projection(self.post_layernorm(states[-1][:, 0]))
        last: Module = self.layers.attentions[-1]
        width = states[-2].shape[-1]
        normed = self.layers.first_norms[-1](states[-2][:, 1:])
        values = functional.linear(normed, last.weight[2 * width :], last.bias[2 * width :])
        patches = self.projection(self.post_layernorm(last.out(values)))
        return pooled, patches


class PoolingHead(nn.Module):
    """SigLIP's attention pooling, whole and for each token alone."""

    def __init__(self, head: Module) -> None:
        """Take over the weights; the probe's query is constant and goes into the keys."""
        super().__init__()
        attention = head.attention
        width, heads = attention.embed_dim, attention.num_heads
        self.heads = heads
        self.layernorm, self.mlp, self.out = head.layernorm, head.mlp, attention.out_proj
        with torch.no_grad():
            to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
            query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
            query = (head.probe[0, 0] @ to_query.T + query_bias) * (width // heads) ** -0.5
            # softmax ignores the key's bias: it adds the same to every token's score.
            key = to_key.reshape(heads, width // heads, width)
            self.score = nn.Buffer(torch.einsum("hd,hdw->hw", query.reshape(heads, -1), key))
        self.value_weight = nn.Parameter(to_value.detach().clone())
        self.value_bias = nn.Parameter(value_bias.detach().clone())

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled [B, D] and each token alone [B, K, D]."""
        count, width = hidden.shape[1], hidden.shape[2]
        values = functional.linear(hidden, self.value_weight, self.value_bias)
        weights = functional.linear(hidden, self.score).transpose(1, 2).softmax(dim=-1)
        by_head = values.reshape(-1, count, self.heads, width // self.heads).transpose(1, 2)
        mixed = (weights.unsqueeze(2) @ by_head).reshape(-1, 1, width)
        both = self.out(torch.cat([mixed, values], dim=1))
        both = both + self.mlp(self.layernorm(both))
        return both[:, 0], both[:, 1:]
