# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision tower as it is exported: pixels in, pooled embedding, tokens and patches out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.modeling.token_pruning import FUSED_INDEX, check_layers, class_attention, prune
from vlm_perception.modeling.transformer_layers import Layers, normalise

# Modules of transformers carry no types.
Module = Any


class VisionGraph(nn.Module):
    """Image [1, H, W, 3] uint8 -> pooled [1, D], tokens [1, K, V], patches [1, K, D].

    `pooled` is the image in text space, L2-normalised. `tokens` are the features that the
    language model's projector reads. `patches` are the single patches in text space, normalised:
    SigLIP's pooling head applied to each token as if it were attended alone, and for CLIP the
    value path of the last layer (MaskCLIP, https://arxiv.org/abs/2112.01071, section 3.2).

    With token pruning there is a fourth output, token_index [K] int64: where in the grid each
    token stands, rising, and FUSED_INDEX for the last one, into which the dropped ones went.
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
        keep: Sequence[KeepStep] = (),
        random_seed: int | None = None,
    ) -> None:
        """Lay out a dual encoder's vision tower for the patches that have these positions.

        Args:
            model: the dual encoder.
            positions: position embeddings [1, tokens, W], the class token's first.
            mean: of each channel, for pixels of 0 to 1.
            std: of each channel.
            feature_layers: hidden states that the language model reads, as in LLaVA.
            drop_class_token: whether it reads them without the class token.
            keep: the steps of token pruning.
            random_seed: keep random patches, the same in each image, as a control of pruning.

        Raises:
            ExportError: `keep` prunes a layer that must not be pruned.
        """
        super().__init__()
        tower = model.vision_model
        embeddings = tower.embeddings
        self.patch_embedding = embeddings.patch_embedding
        self.layers = Layers(tower.encoder.layers)
        self.post_layernorm = tower.post_layernorm
        self.clip = hasattr(embeddings, "class_embedding")
        self.leading = 1 if self.clip else 0
        self.feature_layers = tuple(feature_layers)
        self.first_feature = self.leading if drop_class_token else 0
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
        self.prunable = prunable_layers(len(self.layers), feature_layers, clip=self.clip)
        check_layers(keep, self.prunable)
        self.keep = {step.layer: step.tokens - 1 for step in keep}
        self.orders: dict[int, Tensor] = {}
        if random_seed is not None:
            patches = self.positions.shape[1] - self.leading
            self.orders = random_orders(self.keep, patches, random_seed)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the tower."""
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        hidden = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.clip:
            hidden = torch.cat([self.class_token.expand(len(hidden), -1, -1), hidden], dim=1)
        hidden = hidden + self.positions
        if self.clip:
            hidden = self.pre_layernorm(hidden)
        states, index = self._run_layers(hidden)
        chosen = [states[layer][:, self.first_feature :] for layer in self.feature_layers]
        tokens = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)
        pooled, patches = self._clip_head(states) if self.clip else self._siglip_head(states)
        outputs = normalise(pooled), tokens, normalise(patches)
        if not self.keep:
            return outputs
        return *outputs, torch.cat([index[0], torch.full_like(index[0, :1], FUSED_INDEX)])

    def _run_layers(self, hidden: Tensor) -> tuple[list[Tensor], Tensor]:
        """All hidden states, the input first, [B, T, W] each, and the index of the patches left."""
        states = [hidden]
        index = torch.arange(hidden.shape[1] - self.leading).expand(len(hidden), -1)
        for layer in range(len(self.layers)):
            length, width = hidden.shape[1:]
            flat, query, key = self.layers.attend(layer, hidden.reshape(-1, width), length)
            if layer in self.keep:
                hidden = flat.reshape(-1, length, width)
                hidden, index = self._prune(layer, hidden, index, query, key)
                flat = hidden.reshape(-1, width)
            hidden = self.layers.feed_forward(layer, flat).reshape(hidden.shape)
            states.append(hidden)
        return states, index

    def _prune(
        self, layer: int, hidden: Tensor, index: Tensor, query: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep what the image's own query attends to: the class token, or SigLIP's probe.

        SigLIP has no class token. The probe of its pooling head (https://arxiv.org/abs/2106.04560,
        section 2.3) plays that part at the end of the tower; its attention is read early, from
        the hidden states of this layer. The attention that a token receives from the others is no
        substitute: a few background tokens draw most of it (https://arxiv.org/abs/2309.16588).
        """
        if self.clip:
            weights = class_attention(query, key)
        else:
            weights = self.head.attention(self.post_layernorm(hidden)).mean(dim=1)
        count, order = self.keep[layer], self.orders.get(layer)
        return prune(hidden, index, weights, count, leading=self.leading, order=order)

    def _siglip_head(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled, patches = self.head(self.post_layernorm(states[-1]))
        return pooled, patches

    def _clip_head(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.projection(self.post_layernorm(states[-1][:, 0]))
        normed = self.layers.first_norms[-1](states[-2][:, 1:])
        last: Module = self.layers.attentions[-1]
        read = last.alone(normed)
        return pooled, self.projection(self.post_layernorm(read))


def random_orders(keep: Mapping[int, int], patches: int, seed: int) -> dict[int, Tensor]:
    """For each layer that is pruned a random order of its patches, [1, P]."""
    generator = torch.Generator().manual_seed(seed)
    counts = itertools.pairwise([patches, *keep.values()])
    return {
        layer: torch.randperm(before, generator=generator).unsqueeze(0)
        for layer, (before, _) in zip(keep, counts, strict=True)
    }


def prunable_layers(layers: int, feature_layers: Sequence[int], *, clip: bool) -> int:
    """How many of the layers, from the first, may be pruned.

    The output of layer i is hidden state i + 1. Pruning belongs before the end of the first layer
    that the language model reads, and with CLIP of the one whose output becomes `patches`.
    """
    states = [state % (layers + 1) for state in feature_layers]
    return min(*states, layers - 1 if clip else layers)


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
