# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Removes the attention heads of a vision tower that matter least for what comes out of it.

Michel et al., Are Sixteen Heads Really Better than One? (https://arxiv.org/abs/1905.10650, section
4.1) rank heads by the gradient of the training loss on a gate at each head. Here there is no
training loss. What is to be kept is the output itself, and the squared distance from it has no
gradient where nothing is removed; its second derivative on a gate is the squared length of the
output's gradient, which random directions estimate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlm_perception.bundle.manifest import HeadStep
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import Attention, live_heads, normalise

IMAGES = 64
"""More of them change the ranking little."""
BATCH = 8
DIRECTIONS = 2
STEP_SHARE = 0.1
"""Of all heads, how many go before the rest are ranked again."""

# Modules of transformers carry no types.
Module = Any

_log = logging.getLogger(__name__)


def prune_heads(
    attentions: Sequence[Attention], graph: VisionTower, images: Tensor, share: float
) -> list[HeadStep]:
    """Switch off the least important heads of a checkpoint's vision tower, in place.

    Their rows of query, key and value and their columns of the output projection become zero: the
    checkpoint can still be saved and loaded, and a graph made of it leaves them out. Each layer
    keeps one head at least.

    Args:
        attentions: those of the checkpoint's tower, layer by layer.
        graph: the tower as it will be exported, with all tokens.
        images: [N, H, W, 3] uint8, as the graph takes them.
        share: of all heads, how many stay.

    Returns:
        What each step cost.
    """
    live = [live_heads(attention) for attention in attentions]
    total = sum(attention.heads for attention in attentions)
    gates = [torch.ones(len(heads)) for heads in live]
    goal = max(len(gates), math.ceil(share * total))
    generator = torch.Generator().manual_seed(0)
    dense, steps = _pooled(graph, images), []
    while (left := round(sum(float(gate.sum()) for gate in gates))) > goal:
        scores = importance(graph, gates, images, generator)
        _close_least(gates, scores, min(left - goal, max(1, round(STEP_SHARE * total))))
        with _gated(graph, gates):
            cosines = (_pooled(graph, images) * dense).sum(dim=1)
        steps.append(
            HeadStep(
                heads=tuple(int(gate.sum()) for gate in gates),
                cosine_mean=float(cosines.mean()),
                cosine_min=float(cosines.min()),
            )
        )
        _log.info(
            "%d of %d heads: cosine to all heads %.4f, worst %.4f",
            sum(steps[-1].heads), total, steps[-1].cosine_mean, steps[-1].cosine_min,
        )  # fmt: skip
    for attention, heads, gate in zip(attentions, live, gates, strict=True):
        switch_off(attention, [head for head, on in zip(heads, gate, strict=True) if not on])
    return steps


def switch_off(attention: Attention, heads: Sequence[int]) -> None:
    """Set everything that belongs to some heads to zero."""
    size = attention.head_dim
    with torch.no_grad():
        for head in heads:
            rows = slice(head * size, (head + 1) * size)
            for part in (attention.query, attention.key, attention.value):
                part.weight[rows] = 0.0
                part.bias[rows] = 0.0
            attention.out.weight[:, rows] = 0.0


def importance(
    graph: VisionTower, gates: Sequence[Tensor], images: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """How much the outputs change with each head's gate, [heads] for each layer.

    The outputs are the pooled embedding and the tokens, each of length 1.
    """
    scores = [torch.zeros_like(gate) for gate in gates]
    for batch in images.split(BATCH):
        own = [gate.repeat(len(batch), 1).requires_grad_() for gate in gates]
        with _gated(graph, own):
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


def _close_least(gates: Sequence[Tensor], scores: Sequence[Tensor], count: int) -> None:
    """Close the gates of the heads with the least scores; the last one of a layer stays open."""
    ranked = sorted(
        (float(score[head]), layer, head)
        for layer, score in enumerate(scores)
        for head in range(len(score))
        if gates[layer][head]
    )
    for _, layer, head in ranked:
        if count and gates[layer].sum() > 1:
            gates[layer][head] = 0.0
            count -= 1


@torch.no_grad()
def _pooled(graph: VisionTower, images: Tensor) -> Tensor:
    return torch.cat([graph(batch)[0] for batch in images.split(BATCH)])


@contextmanager
def _gated(graph: VisionTower, gates: Sequence[Tensor]) -> Iterator[None]:
    """Multiply what each head gives by its gate, [heads] or [B, heads]."""
    attentions: Sequence[Module] = list(graph.layers.attentions)
    hooks = [
        attention.out.register_forward_pre_hook(partial(_gate, gate))
        for attention, gate in zip(attentions, gates, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gate(gate: Tensor, _: Module, inputs: tuple[Tensor]) -> Tensor:
    gate = gate.reshape(-1, 1, gate.shape[-1], 1)
    by_head = inputs[0].reshape(
        gate.shape[0], -1, gate.shape[2], inputs[0].shape[1] // gate.shape[2]
    )
    return (by_head * gate).reshape(inputs[0].shape)
