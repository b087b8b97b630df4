# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The networks as they are exported: transformers' own weights, graphs laid out for engines.

The forwards are written out over the modules of transformers, so that the graphs hold what the
robot needs and nothing else: uint8 in, constant shapes, one matrix for query, key and value.
The tests hold them against transformers' own outputs.
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
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        feature_layers: Sequence[int],
        drop_class_token: bool,
    ) -> None:
        """Lay out a dual encoder's vision tower for one image size (width, height)."""
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
        self.positions = nn.Buffer(positions_for(embeddings, size))
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


class TextGraph(nn.Module):
    """Token ids [N, L] int64 -> embedding [N, D], L2-normalised."""

    def __init__(self, model: Module, length: int) -> None:
        """Lay out a dual encoder's text tower for texts padded to `length` tokens."""
        super().__init__()
        tower = model.text_model
        self.clip = hasattr(model, "text_projection")
        self.token_embedding = tower.embeddings.token_embedding
        positions = tower.embeddings.position_embedding.weight[:length]
        self.positions = nn.Buffer(positions.detach().unsqueeze(0))
        self.layers = Layers(tower.encoder.layers)
        self.final_norm = tower.final_layer_norm
        self.projection = model.text_projection if self.clip else tower.head
        mask = torch.full((length, length), -1e9).triu(1) if self.clip else None
        self.mask = nn.Buffer(mask, persistent=False) if mask is not None else None
        self.eos_token_id = tower.config.eos_token_id

    def forward(self, input_ids: Tensor) -> Tensor:
        """Run the tower."""
        hidden = self.token_embedding(input_ids) + self.positions
        hidden = self.layers(hidden, self.mask)[-1]
        hidden = hidden[:, -1] if not self.clip else self._at_end(hidden, input_ids)
        return normalise(self.projection(self.final_norm(hidden)))

    def _at_end(self, hidden: Tensor, input_ids: Tensor) -> Tensor:
        # Checkpoints from before transformers 4.31 say 2 and mean the highest id.
        ends = input_ids if self.eos_token_id == 2 else (input_ids == self.eos_token_id).long()
        index = ends.argmax(dim=-1).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, index)[:, 0]


class ProjectorGraph(nn.Module):
    """Tokens [1, K, V] -> embeds [1, K, W], as the decoder reads them."""

    def __init__(self, projector: Module) -> None:
        """Take over LLaVA's projector."""
        super().__init__()
        self.projector = projector

    def forward(self, tokens: Tensor) -> Tensor:
        """Project."""
        return self.projector(tokens)  # type: ignore[no-any-return]


class DecoderGraph(nn.Module):
    """One graph for prefill, decoding and packed questions.

    inputs_embeds [B, T, W], past [layers, 2, B, heads, P, D], position_ids [B, T],
    mask [B, 1, T, P + T] (added to the scores), logit_rows [R] (which of the T rows need logits)
    -> logits [B, R, vocabulary], new_kv [layers, 2, B, heads, T, D].
    """

    def __init__(self, model: Module, head: Module) -> None:
        """Take over a Llama decoder and its output layer."""
        super().__init__()
        config = model.config
        self.layers = nn.ModuleList(DecoderLayer(layer, config) for layer in model.layers)
        self.norm, self.head = model.norm, head
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
        angles = position_ids.unsqueeze(-1).to(torch.float32) * self.inverse_frequencies
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        cosine, sine = angles.cos() * self.rotary_scale, angles.sin() * self.rotary_scale
        hidden, new = inputs_embeds, []
        for index, layer in enumerate(self.layers):
            hidden, key, value = layer(hidden, past[index, 0], past[index, 1], cosine, sine, mask)
            new.append(torch.stack([key, value]))
        hidden = rms_norm(hidden.index_select(1, logit_rows), self.norm)
        return self.head(hidden), torch.stack(new)


class DecoderLayer(nn.Module):
    """A Llama layer over a cache that is handed in."""

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
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm

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
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        keys = self._repeat(torch.cat([past_key, key], dim=2))
        values = self._repeat(torch.cat([past_value, value], dim=2))
        scores = (query * self.scale) @ keys.transpose(-1, -2) + mask
        mixed = scores.softmax(dim=-1) @ values
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(rms_norm(hidden, self.second_norm)).split(
            [self.inner, self.inner], dim=-1
        )
        return hidden + self.down(self.activation(gate) * up), key, value

    def _repeat(self, states: Tensor) -> Tensor:
        if self.heads == self.kv_heads:
            return states
        return states.repeat_interleave(self.heads // self.kv_heads, dim=1)


def rms_norm(hidden: Tensor, norm: Module) -> Tensor:
    """Llama's norm with a division, the form that engines recognise and fuse."""
    mean = hidden.pow(2).mean(-1, keepdim=True)
    scaled: Tensor = norm.weight * (hidden / torch.sqrt(mean + norm.variance_epsilon))
    return scaled


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864), halves rotated."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine


def normalise(vectors: Tensor) -> Tensor:
    """L2-normalise the last dimension."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length


def positions_for(embeddings: Module, size: tuple[int, int]) -> Tensor:
    """Position embeddings for an image size, [1, tokens, W].

    As many patches as the tower has positions take them as they are, whatever the shape of
    the grid: such a tower was trained so. Otherwise transformers' own interpolation applies.
    """
    width, height = size
    weight: Tensor = embeddings.position_embedding.weight.detach()
    patch = embeddings.patch_size
    patches = (width // patch) * (height // patch)
    class_tokens = 1 if hasattr(embeddings, "class_embedding") else 0
    if patches + class_tokens == weight.shape[0]:
        return weight.unsqueeze(0)
    blank = torch.zeros(1, patches + class_tokens, weight.shape[1])
    with torch.no_grad():
        result: Tensor = embeddings.interpolate_pos_encoding(blank, height, width)
    return result


def _stack_linear(parts: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer that gives the outputs of several, one behind the other."""
    outputs = sum(part.out_features for part in parts)
    biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
    stacked = nn.Linear(parts[0].in_features, outputs, bias=bool(biases))
    with torch.no_grad():
        stacked.weight.copy_(torch.cat(tuple(part.weight for part in parts)))
        if biases:
            stacked.bias.copy_(torch.cat(biases))
    return stacked
