# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks parts of a vision tower, heads or neurons, by what a gate at each does to what comes out.

Michel et al., Are Sixteen Heads Really Better than One? (https://arxiv.org/abs/1905.10650, section
4.1) rank heads by the gradient of the training loss on a gate at each head. Here there is no
training loss. What is to be kept is the output itself, and the squared distance from it has no
gradient where nothing is removed; its second derivative on a gate is the squared length of the
output's gradient, which random directions estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import normalise

BATCH = 8
DIRECTIONS = 2

# Modules of transformers carry no types.
Module = Any


def importance(
    graph: VisionTower,
    readers: Sequence[Module],
    gates: Sequence[Tensor],
    images: Tensor,
    generator: torch.Generator,
) -> list[Tensor]:
    """How much the outputs change with each gate, [gates] for each layer.

    The outputs are the pooled embedding and the tokens, each of length 1.

    Args:
        graph: the tower.
        readers: of each layer the module that reads what the gates are at: the projection after the
            heads, or the second linear layer of a feed-forward one.
        gates: [gates] of each layer, which divide what is read evenly.
        images: [N, H, W, 3] uint8, as the graph takes them.
        generator: draws the directions.
    """
    scores = [torch.zeros_like(gate) for gate in gates]
    for batch in images.split(BATCH):
        own = [gate.repeat(len(batch), 1).requires_grad_() for gate in gates]
        with gated(readers, own):
            pooled, tokens = graph(batch)[:2]
        features = torch.cat([pooled, normalise(tokens.flatten(1))], dim=1)
        for _ in range(DIRECTIONS):
            direction = torch.randn(features.shape, generator=generator)
            slopes = torch.autograd.grad((features * direction).sum(), own, retain_graph=True)
            scores = [
                score + slope.square().sum(dim=0)
                for score, slope in zip(scores, slopes, strict=True)
            ]
    return scores


@contextmanager
def gated(readers: Sequence[Module], gates: Sequence[Tensor]) -> Iterator[None]:
    """Multiply what each module reads by its gates, [gates] or [B, gates]."""
    hooks = [
        reader.register_forward_pre_hook(partial(_gate, gate))
        for reader, gate in zip(readers, gates, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gate(gate: Tensor, _: Module, inputs: tuple[Tensor]) -> Tensor:
    gate = gate.reshape(-1, 1, gate.shape[-1], 1)
    by_part = inputs[0].reshape(
        gate.shape[0], -1, gate.shape[2], inputs[0].shape[1] // gate.shape[2]
    )
    return (by_part * gate).reshape(inputs[0].shape)
