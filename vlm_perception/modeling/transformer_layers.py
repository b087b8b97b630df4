# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The transformer layers that vision and text towers share, laid out for engines.

The forwards are written out over the modules of transformers, so that the graphs hold what the
robot needs and nothing else: constant shapes, one matrix for query, key and value. The tests
compare them with transformers' own outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.modeling.rotary import rotate

# Modules of transformers carry no types.
Module = Any


@dataclass(frozen=True)
class Attention:
    """A self-attention, by the modules that hold its weights."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    heads: int
    query_norm: nn.Module | None = None
    """Of the queries of all heads together, as in the largest InternViT."""
    key_norm: nn.Module | None = None

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.query.out_features // self.heads


@dataclass(frozen=True)
class Block:
    """A transformer layer with its norms before attention and feed-forward part."""

    first_norm: nn.Module
    attention: Attention
    second_norm: nn.Module
    feed_forward: nn.Module
    read_scale: Tensor | None = None
    """Of what the attention adds, [W], by layer scale (https://arxiv.org/abs/2103.17239)."""
    fed_scale: Tensor | None = None
    """Of what the feed-forward part adds."""


def blocks_of(encoder: Module) -> tuple[Block, ...]:
    """The layers of an encoder, where CLIP and SigLIP have their parts."""
    return tuple(
        Block(
            layer.layer_norm1,
            Attention(
                query=layer.self_attn.q_proj,
                key=layer.self_attn.k_proj,
                value=layer.self_attn.v_proj,
                out=layer.self_attn.out_proj,
                heads=layer.self_attn.num_heads,
            ),
            layer.layer_norm2,
            layer.mlp,
        )
        for layer in encoder.layers
    )


class FusedAttention(nn.Module):
    """Self-attention with one projection for query, key and value.

    A head whose columns of the output projection are zero adds nothing, and is left out.
    """

    def __init__(self, attention: Attention) -> None:
        """Take over the weights of an attention."""
        super().__init__()
        self.head_dim, self.scale = attention.head_dim, attention.head_dim**-0.5
        self.query_norm, self.key_norm = attention.query_norm, attention.key_norm
        # Where training takes hold to quantize; they change nothing and are in no graph.
        self.input, self.query, self.key = nn.Identity(), nn.Identity(), nn.Identity()
        self.softmax, self.value, self.joined = nn.Identity(), nn.Identity(), nn.Identity()
        live = live_heads(attention)
        self.heads = len(live)
        rows = (torch.tensor(live)[:, None] * self.head_dim + torch.arange(self.head_dim)).flatten()
        whole = self.heads == attention.heads
        parts = (attention.query, attention.key, attention.value)
        weights = [part.weight for part in parts]
        self.weight = joined(weights if whole else [weight[rows] for weight in weights])
        self.bias = None
        if all(part.bias is not None for part in parts):
            biases = [part.bias for part in parts]
            self.bias = joined(biases if whole else [bias[rows] for bias in biases])
        self.out = attention.out
        if not whole:
            self.out = nn.Linear(len(rows), attention.out.out_features)
            self.out.weight = nn.Parameter(attention.out.weight[:, rows].detach())
            self.out.bias = attention.out.bias

    def forward(
        self,
        hidden: Tensor,
        length: int,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            hidden: [B * T, W] with T = length.
            length: T.
            mask: added to the scores, [T, T].
            rotary: cosines and sines that queries and keys are rotated by, [T, head width].

        Returns:
            What is read [B * T, W], and the queries (scaled) and keys [B, heads, T, head width].
        """
        fused = functional.linear(self.input(hidden), self.joined(self.weight), self.bias)
        if self.query_norm is not None and self.key_norm is not None:
            query, key, value = fused.chunk(3, dim=-1)
            fused = torch.cat([self.query_norm(query), self.key_norm(key), value], dim=-1)
        fused = fused.reshape(-1, length, 3, self.heads, self.head_dim)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        query = query * self.scale
        scores = self.query(query) @ self.key(key).transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        mixed = self.softmax(scores.softmax(dim=-1)) @ self.value(value)
        read = self.out(mixed.transpose(1, 2).reshape(-1, self.heads * self.head_dim))
        return read, query, key

    def of_one(self, hidden: Tensor, length: int, one: Tensor, mask: Tensor | None) -> Tensor:
        """What one token of each text reads; without norms of queries and keys.

        Args:
            hidden: [B * T, W] with T = length.
            length: T.
            one: the token that reads, [B, W].
            mask: added to its scores, [B, T].
        """
        inner, heads = self.heads * self.head_dim, self.heads
        biases = (None, None) if self.bias is None else (self.bias[:inner], self.bias[inner:])
        query = functional.linear(one, self.weight[:inner], biases[0]) * self.scale
        both = functional.linear(hidden, self.weight[inner:], biases[1])
        both = both.reshape(-1, length, 2, heads, self.head_dim)
        key, value = both.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query.reshape(-1, heads, 1, self.head_dim) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask[:, None, None]
        mixed = scores.softmax(dim=-1) @ value
        return self.out(mixed.reshape(-1, inner))  # type: ignore[no-any-return]

    def alone(self, hidden: Tensor) -> Tensor:
        """What each token [..., W] reads when it attends to nothing but itself."""
        inner = self.heads * self.head_dim
        bias = None if self.bias is None else self.bias[2 * inner :]
        values = functional.linear(hidden, self.weight[2 * inner :], bias)
        return self.out(values)  # type: ignore[no-any-return]


def joined(tensors: Sequence[Tensor]) -> nn.Parameter:
    """One tensor of some, row after row; they become parts of it: two copies would fill memory."""
    whole = torch.cat([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, whole.split([len(each) for each in tensors]), strict=True):
        tensor.data = part
    return nn.Parameter(whole)


def live_heads(attention: Attention) -> list[int]:
    """The heads whose output is not switched off; one at least, and all that share a norm."""
    if attention.query_norm is not None:
        return list(range(attention.heads))
    columns = attention.out.weight.detach().unflatten(1, (attention.heads, -1))
    live: list[int] = columns.abs().amax(dim=(0, 2)).nonzero().flatten().tolist()
    return live or [0]


class LayerScale(nn.Module):
    """What a part of a layer adds, channel by channel."""

    def __init__(self, scale: Tensor | None) -> None:
        """Take over the factors, [W]; None: all are one."""
        super().__init__()
        self.scale = None if scale is None else nn.Parameter(scale.detach())

    def forward(self, added: Tensor) -> Tensor:
        """Scale."""
        return added if self.scale is None else added * self.scale


class Layers(nn.Module):
    """The transformer layers of a tower.

    The hidden states are flat, [B * T, W]: with two dimensions engines make one matrix product
    with bias of each linear layer.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        """Take over the layers of a checkpoint."""
        super().__init__()
        self.attentions = nn.ModuleList(FusedAttention(block.attention) for block in blocks)
        self.first_norms = nn.ModuleList(block.first_norm for block in blocks)
        self.second_norms = nn.ModuleList(block.second_norm for block in blocks)
        self.mlps = nn.ModuleList(block.feed_forward for block in blocks)
        self.read_scales = nn.ModuleList(LayerScale(block.read_scale) for block in blocks)
        self.fed_scales = nn.ModuleList(LayerScale(block.fed_scale) for block in blocks)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.mlps)

    def attend(
        self,
        layer: int,
        flat: Tensor,
        length: int,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's first half, with its queries (scaled) and keys [B, heads, T, head width]."""
        normed = self.first_norms[layer](flat)
        read, query, key = self.attentions[layer](normed, length, mask, rotary)
        return flat + self.read_scales[layer](read), query, key

    def feed_forward(self, layer: int, flat: Tensor) -> Tensor:
        """A layer's second half."""
        fed = self.mlps[layer](self.second_norms[layer](flat))
        return flat + self.fed_scales[layer](fed)  # type: ignore[no-any-return]

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last layer's output [B, T, W] for hidden states of that shape."""
        return self.through(hidden, len(self), mask)

    def through(self, hidden: Tensor, layers: int, mask: Tensor | None = None) -> Tensor:
        """The output of the first layers, [B, T, W]."""
        length, width = hidden.shape[1], hidden.shape[2]
        flat = hidden.reshape(-1, width)
        for layer in range(layers):
            flat, _, _ = self.attend(layer, flat, length, mask)
            flat = self.feed_forward(layer, flat)
        return flat.reshape(-1, length, width)

    def at(self, hidden: Tensor, places: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last layer's output for one token of each text, [B, W], and no more than it takes.

        Args:
            hidden: [B, T, W].
            places: of the tokens, int64 [B].
            mask: added to the scores, [T, T].
        """
        last, length = len(self) - 1, hidden.shape[1]
        hidden = self.through(hidden, last, mask)
        one = _picked(hidden, places)
        norm, attention = self.first_norms[last], self.attentions[last]
        normed = norm(hidden.reshape(-1, hidden.shape[2]))
        row = None if mask is None else mask[places]
        read = attention.of_one(normed, length, norm(one), row)  # type: ignore[operator]
        return self.feed_forward(last, one + self.read_scales[last](read))


def _picked(hidden: Tensor, places: Tensor) -> Tensor:
    """One token of each text, [B, W], of [B, T, W]."""
    index = places.reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index)[:, 0]


def normalise(vectors: Tensor) -> Tensor:
    """L2-normalise the last dimension."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length
