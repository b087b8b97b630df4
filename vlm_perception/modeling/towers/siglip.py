# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP and SigLIP 2 (https://arxiv.org/abs/2303.15343): pooling by attention, a sigmoid score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.modeling.towers.vision_tower import VisionTower

# Modules and configurations of transformers carry no types.
Module = Any


class SiglipVision(VisionTower):
    """A pooling head reads all tokens with a learned probe; a patch is pooled as if it were alone.

    There is no class token that could rank the tokens. The probe of the pooling head
    (https://arxiv.org/abs/2106.04560, section 2.3) plays that part at the end of the tower; its
    attention is read early, from the hidden states of the layer that is pruned. The attention that
    a token receives from the others is no substitute: a few background tokens draw most of it
    (https://arxiv.org/abs/2309.16588).
    """

    name = "siglip"
    # Idefics3 and SmolVLM have SigLIP's tower under names of their own, which the first of them
    # shortened.
    model_types = frozenset(
        {"siglip_vision_model", "idefics3", "idefics3_vision", "smolvlm_vision"}
    )

    @classmethod
    def check(cls, config: Module) -> None:
        """Refuse a tower whose head was cut off."""
        if not config.vision_config.vision_use_head:
            raise ExportError(
                "dual/ has a vision tower without a pooling head (vision_use_head), so images "
                "cannot be compared with texts; use the original checkpoint"
            )

    @classmethod
    def embedding_width(cls, config: Module) -> int:
        """That of the tower: the head projects nothing."""
        return int(config.vision_config.hidden_size)

    def take_over(self, model: Module) -> None:
        """Take the pooling head."""
        self.head = PoolingHead(model.vision_model.head)

    def rank(self, hidden: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """By the attention of the pooling head's probe."""
        return self.head.attention(self.post_layernorm(hidden)).mean(dim=1)

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Pool all tokens, and each alone."""
        pooled, patches = self.head(self.post_layernorm(states[-1]))
        return pooled, patches


class SiglipText(TextTower):
    """A text is read at its last place, padding or not; each label has a probability of its own."""

    score = "sigmoid"

    @classmethod
    def logit_bias(cls, model: Module) -> float:
        """As trained."""
        return float(model.logit_bias)

    def take_over(self, model: Module, length: int) -> None:
        """Take the head; every token sees every other."""
        self.projection = model.text_model.head
        self.mask = None

    def places(self, input_ids: Tensor) -> Tensor:
        """The last token."""
        # A constant would be a tensor of its own in a traced graph.
        return (input_ids >= 0).sum(dim=-1) - 1

    def pool(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        """Read the last token."""
        return hidden[:, -1]


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

    def attention(self, hidden: Tensor) -> Tensor:
        """How much the probe attends to each token, [B, heads, K]."""
        return functional.linear(hidden, self.score).transpose(1, 2).softmax(dim=-1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled [B, D] and each token alone [B, K, D]."""
        count, width = hidden.shape[1], hidden.shape[2]
        values = functional.linear(hidden, self.value_weight, self.value_bias)
        weights = self.attention(hidden)
        by_head = values.reshape(-1, count, self.heads, width // self.heads).transpose(1, 2)
        mixed = (weights.unsqueeze(2) @ by_head).reshape(-1, 1, width)
        both = self.out(torch.cat([mixed, values], dim=1))
        both = both + self.mlp(self.layernorm(both))
        return both[:, 0], both[:, 1:]
