# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Removes the attention heads of a vision tower that matter least for what comes out of it.

They are ranked again and again while they go, as `gates` says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_perception.bundle.manifest import HeadStep
from vlm_perception.deploy.compression.gates import BATCH, gated, importance
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import Attention, live_heads

IMAGES = 64
"""More of them change the ranking little."""
STEP_SHARE = 0.1
"""Of all heads, how many go before the rest are ranked again."""

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
    gated_layers = [attention.out for attention in graph.layers.attentions]
    dense, steps = _pooled(graph, images), []
    while (left := round(sum(float(gate.sum()) for gate in gates))) > goal:
        scores = importance(graph, gated_layers, gates, images, generator)
        _close_least(gates, scores, min(left - goal, max(1, round(STEP_SHARE * total))))
        with gated(gated_layers, gates):
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
