# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The decoder as it is exported, over a cache that is handed in: Llama and its relatives.

Qwen2 adds biases, Qwen3 norms of queries and keys; Gemma scales embeddings, and Gemma 2 has norms
after attention and feed-forward part, and caps scores (https://arxiv.org/abs/2408.00118, section 2;
its cap of the logits is that of its own language model, which no family here applies). Qwen-VL has
positions along three axes (M-RoPE, https://arxiv.org/abs/2409.12191, section 2.1), and Qwen3-VL
reads features of several layers of its vision tower (DeepStack, https://arxiv.org/abs/2406.04334).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm_perception.modeling.rotary import rotate
from vlm_perception.modeling.transformer_layers import joined

# Modules of transformers carry no types.
Module = Any


class DecoderGraph(nn.Module):
    """One graph for prefill, decoding and packed questions.

    Embeddings are as they are stored: a decoder that scales them does so in the graph.

    inputs_embeds [B, T, (1 + S) W], past [layers, 2, B, heads, P, D], position_ids [B, T] (how many
    tokens stand before each), mask [B, 1, T, P + T] (added to the scores), logit_rows [R] (which of
    the T rows need logits) -> logits [B, R, vocabulary], new_kv [layers, 2, B, heads, T, D].
    """

    def __init__(
        self, model: Module, head: Module, places: Tensor | None = None, stacked: int = 0
    ) -> None:
        """Take over a decoder and its output layer.

        Args:
            model: the decoder.
            head: its output layer.
            places: of a model with positions along several axes, [N + 1, D / 2]: for each frequency
                the position of a prompt's first N tokens, an image among them, and of the next,
                from which on all axes count on; None: a token's position is its place.
            stacked: S, how many of the first layers add features that follow each embedding.
        """
        super().__init__()
        config = model.config
        self.width, self.stacked = config.hidden_size, stacked
        self.places = None if places is None else nn.Buffer(places)
        self.layers = nn.ModuleList(DecoderLayer(layer, config) for layer in model.layers)
        self.norm, self.head = model.norm, head
        self.embedding_scale = embedding_scale(model)
        self.inverse_frequencies = nn.Buffer(model.rotary_emb.inv_freq.detach().float())
        self.rotary_scale = float(model.rotary_emb.attention_scaling)

    def forward(
        self,
        inputs_embeds: Tensor,
        past: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        logit_rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run all layers."""
        angles = self._places(position_ids).to(torch.float32) * self.inverse_frequencies
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        cosine, sine = angles.cos() * self.rotary_scale, angles.sin() * self.rotary_scale
        hidden, features, new = inputs_embeds, (), []
        if self.stacked:
            hidden, *features = inputs_embeds.split(self.width, dim=-1)
        if self.embedding_scale != 1.0:
            hidden = hidden * self.embedding_scale
        for index, layer in enumerate(self.layers):
            hidden, key, value = layer(hidden, past[index, 0], past[index, 1], cosine, sine, mask)
            if index < self.stacked:
                hidden = hidden + features[index]
            new.append(torch.stack([key, value]))
        hidden = rms_norm(hidden.index_select(1, logit_rows), self.norm)
        return self.head(hidden), torch.stack(new)

    def _places(self, position_ids: Tensor) -> Tensor:
        """Position of each token by frequency, [B, T, D / 2], or for all of them, [B, T, 1]."""
        if self.places is None:
            return position_ids.unsqueeze(-1)
        known = torch.minimum(position_ids, torch.tensor(len(self.places) - 1))
        return self.places[known] + (position_ids - known).unsqueeze(-1)


class DecoderLayer(nn.Module):
    """A layer over a cache that is handed in."""

    def __init__(self, layer: Module, config: Module) -> None:
        """Take over a layer; query, key and value, and gate and up, become one matrix each."""
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = attention.head_dim
        self.scale = attention.scaling
        self.qkv = _stack_linear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = attention.o_proj
        self.gate_up = _stack_linear([mlp.gate_proj, mlp.up_proj])
        self.inner = mlp.gate_proj.out_features
        self.down, self.activation = mlp.down_proj, mlp.act_fn
        self.query_norm, self.key_norm = (
            getattr(attention, name, None) for name in ("q_norm", "k_norm")
        )
        self.score_cap: float | None = getattr(config, "attn_logit_softcapping", None)
        # What Llama names after the attention stands before the feed-forward part.
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.read_norm = self.fed_norm = None
        if hasattr(layer, "pre_feedforward_layernorm"):
            self.read_norm, self.second_norm = self.second_norm, layer.pre_feedforward_layernorm
            self.fed_norm = layer.post_feedforward_layernorm

    def forward(
        self,
        hidden: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        cosine: Tensor,
        sine: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B, T, W] and this step's keys and values [B, heads, T, D]."""
        batch, length = hidden.shape[0], hidden.shape[1]
        fused = self.qkv(rms_norm(hidden, self.first_norm))
        fused = fused.reshape(batch, length, -1, self.head_dim).transpose(1, 2)
        query, key, value = fused.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        query, key = _normed(query, self.query_norm), _normed(key, self.key_norm)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        keys = self._repeat(torch.cat([past_key, key], dim=2))
        values = self._repeat(torch.cat([past_value, value], dim=2))
        scores = _capped((query * self.scale) @ keys.transpose(-1, -2), self.score_cap) + mask
        mixed = (scores.softmax(dim=-1) @ values).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + _normed(self.out(mixed), self.read_norm)
        gate, up = self.gate_up(rms_norm(hidden, self.second_norm)).split(
            [self.inner, self.inner], dim=-1
        )
        fed = _normed(self.down(self.activation(gate) * up), self.fed_norm)
        return hidden + fed, key, value

    def _repeat(self, states: Tensor) -> Tensor:
        if self.heads == self.kv_heads:
            return states
        return states.repeat_interleave(self.heads // self.kv_heads, dim=1)


def rms_norm(hidden: Tensor, norm: Module) -> Tensor:
    """Llama's norm with a division, the form that engines recognise and fuse."""
    mean = hidden.pow(2).mean(-1, keepdim=True)
    # Gemma's norms have another name for it, and store how far each weight is from one.
    gemma = hasattr(norm, "eps")
    epsilon, weight = (
        (norm.eps, 1.0 + norm.weight) if gemma else (norm.variance_epsilon, norm.weight)
    )
    scaled: Tensor = weight * (hidden / torch.sqrt(mean + epsilon))
    return scaled


def embedding_scale(model: Module) -> float:
    """What a decoder multiplies token embeddings by; 1 in most."""
    return float(getattr(model.embed_tokens, "embed_scale", 1.0))


def _normed(hidden: Tensor, norm: Module | None) -> Tensor:
    return hidden if norm is None else rms_norm(hidden, norm)


def _capped(scores: Tensor, cap: float | None) -> Tensor:
    """Scores between -cap and cap, by a tanh."""
    return scores if cap is None else cap * torch.tanh(scores / cap)


def _stack_linear(parts: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer that gives the outputs of several, one after the other."""
    outputs = sum(part.out_features for part in parts)
    biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
    stacked = nn.Linear(parts[0].in_features, outputs, bias=bool(biases), device="meta")
    stacked.weight = joined([part.weight for part in parts])
    if biases:
        stacked.bias = joined(biases)
    return stacked
