# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The vision tower as it is trained: over transformers' modules, with token pruning or without.

With pruning it drops the same tokens as the exported graph, so that a student learns to do without
them (EViT, https://arxiv.org/abs/2202.07800, trains so). What is chosen has no gradient, but the
fused token has one, through its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.modeling.token_pruning import prune

PRUNED_SHARE = 2 / 3
"""Of the batches, where a student is trained for token pruning."""

# Modules of transformers carry no types.
Module = Any
_FORGETS = "keeps_no_activations"


@dataclass(frozen=True)
class Seen:
    """What a SigLIP tower makes of a batch of images."""

    features: Tensor
    """[B, K, D], output of the last layer: what LLaVA's projector reads."""
    normed: Tensor
    """[B, K, D], the same after the last norm: what the pooling head reads."""
    pooled: Tensor
    """[B, D], not normalised."""
    index: Tensor
    """[B, P], place in the grid of each patch that is left; a fused token comes last."""


def see(
    tower: Module, pixels: Tensor, keep: Sequence[KeepStep] = (), resized: bool = False
) -> Seen:
    """Run a SiglipVisionModel.

    Args:
        tower: its module.
        pixels: [B, 3, H, W].
        keep: steps of token pruning.
        resized: whether it has positions for another grid, which are interpolated.
    """
    hidden = tower.embeddings(pixels, interpolate_pos_encoding=resized)
    index = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
    counts = {step.layer: step.tokens - 1 for step in keep}

    def through(number: int, hidden: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        layer = tower.encoder.layers[number]
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden))[0]
        if number in counts:
            weights = probe_attention(tower, hidden)
            hidden, index = prune(hidden, index, weights, counts[number])
        return hidden + layer.mlp(layer.layer_norm2(hidden)), index

    for number in range(len(tower.encoder.layers)):
        hidden, index = remembering(tower, through, number, hidden, index)
    normed = tower.post_layernorm(hidden)
    return Seen(hidden, normed, tower.head(normed), index)


def remembering(
    tower: Module,
    layer: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
    number: int,
    hidden: Tensor,
    index: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run a layer; its activations are computed again if the tower has been told to (`forget`)."""
    if not getattr(tower, _FORGETS, False):
        return layer(number, hidden, index)
    again: tuple[Tensor, Tensor] = checkpoint(layer, number, hidden, index, use_reentrant=False)
    return again


def forget(tower: Module) -> None:
    """Keep no activations within a tower's layers: a third more work for a fraction of the memory.

    Chen et al., Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174.
    """
    setattr(tower, _FORGETS, True)


def probe_attention(tower: Module, hidden: Tensor) -> Tensor:
    """How much the pooling head's probe attends to each token [B, K], averaged over heads."""
    # In half precision tokens tie, and others would be chosen than in the exported graph.
    with torch.autocast(hidden.device.type, enabled=False):
        normed = tower.post_layernorm(hidden.float())
        probe = tower.head.probe.expand(len(hidden), -1, -1)
        _, weights = tower.head.attention(probe, normed, normed)
    return weights[:, 0]  # type: ignore[no-any-return]


def patch_embeddings(model: Module, hidden: Tensor) -> Tensor:
    """Each token through a SiglipModel's pooling head as if it stood alone, normalised.

    Args:
        model: the dual encoder.
        hidden: [B, K, W], after the last norm.

    Returns:
        [B, K, W].
    """
    head = model.vision_model.head
    attention, width = head.attention, hidden.shape[-1]
    values = F.linear(
        hidden, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    )
    read = attention.out_proj(values)
    return F.normalize((read + head.mlp(head.layernorm(read))).float(), dim=-1)
