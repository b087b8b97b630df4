# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Ranks the neurons of a vision tower's feed-forward layers, as `heads` ranks its heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlm_perception.deploy.compression.heads import BATCH, DIRECTIONS
from vlm_perception.modeling.towers.vision_tower import VisionTower
from vlm_perception.modeling.transformer_layers import normalise

# Modules of transformers carry no types.
Module = Any


def neuron_importance(graph: VisionTower, images: Tensor) -> list[Tensor]:
    """How much the outputs change with a gate at each neuron, [neurons] for each layer.

    Args:
        graph: of a tower whose feed-forward layers are two linear ones, fc1 and fc2.
        images: [N, H, W, 3] uint8, as the graph takes them.
    """
    mlps: Sequence[Module] = list(graph.layers.mlps)
    scores = [torch.zeros(mlp.fc2.in_features) for mlp in mlps]
    generator = torch.Generator().manual_seed(0)
    for batch in images.split(BATCH):
        gates = [score.new_ones(len(batch), len(score)).requires_grad_() for score in scores]
        with _gated(mlps, gates):
            pooled, tokens = graph(batch)[:2]
        features = torch.cat([pooled, normalise(tokens.flatten(1))], dim=1)
        for _ in range(DIRECTIONS):
            direction = torch.randn(features.shape, generator=generator)
            slopes = torch.autograd.grad((features * direction).sum(), gates, retain_graph=True)
            scores = [
                score + slope.square().sum(dim=0)
                for score, slope in zip(scores, slopes, strict=True)
            ]
    return scores


@contextmanager
def _gated(mlps: Sequence[Module], gates: Sequence[Tensor]) -> Iterator[None]:
    hooks = [
        mlp.fc2.register_forward_pre_hook(partial(_gate, gate))
        for mlp, gate in zip(mlps, gates, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _gate(gate: Tensor, _: Module, inputs: tuple[Tensor]) -> Tensor:
    by_image = inputs[0].unflatten(0, (len(gate), -1))
    gated: Tensor = (by_image * gate[:, None]).flatten(0, 1)
    return gated
