# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The transformer layers that vision and text towers share, laid out for engines.

The forwards are written out over the modules of transformers, so that the graphs hold what the
robot needs and nothing else: constant shapes, one matrix for query, key and value. The tests hold
them against transformers' own outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Modules of transformers carry no types.
Module = Any


class FusedAttention(nn.Module):
    """Self-attention of a CLIP or SigLIP layer with one projection for query, key and value."""

    def __init__(self, attention: Module) -> None:
        """Take over the weights of a transformers attention."""
        super().__init__()
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]).detach())
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]).detach())
        self.out = attention.out_proj
        self.heads = attention.num_heads
        self.scale = attention.head_dim**-0.5

    def forward(self, hidden: Tensor, length: int, mask: Tensor | None) -> Tensor:
        """Attend; hidden [B * T, W] with T = length, mask additive [T, T] or None."""
        width = hidden.shape[1]
        fused = functional.linear(hidden, self.weight, self.bias)
        fused = fused.reshape(-1, length, 3, self.heads, width // self.heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.scale) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        mixed = scores.softmax(dim=-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(-1, width))  # type: ignore[no-any-return]


class Layers(nn.Module):
    """The transformer layers of a CLIP or SigLIP tower."""

    def __init__(self, layers: Sequence[Module]) -> None:
        """Take over the layers of a transformers encoder."""
        super().__init__()
        self.attentions = nn.ModuleList(FusedAttention(layer.self_attn) for layer in layers)
        self.first_norms = nn.ModuleList(layer.layer_norm1 for layer in layers)
        self.second_norms = nn.ModuleList(layer.layer_norm2 for layer in layers)
        self.mlps = nn.ModuleList(layer.mlp for layer in layers)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """All hidden states, the input first, [B, T, W] each."""
        states = [hidden]
        length, width = hidden.shape[1], hidden.shape[2]
        # Two dimensions: engines make one matrix product with bias of each linear layer.
        flat = hidden.reshape(-1, width)
        for attention, first_norm, second_norm, mlp in zip(
            self.attentions, self.first_norms, self.second_norms, self.mlps, strict=True
        ):
            flat = flat + attention(first_norm(flat), length, mask)
            flat = flat + mlp(second_norm(flat))
            states.append(flat.reshape(-1, length, width))
        return states


def normalise(vectors: Tensor) -> Tensor:
    """L2-normalise the last dimension."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length
