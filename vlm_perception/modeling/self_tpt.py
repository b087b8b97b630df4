# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Soft prompts before a frozen text tower, and the contrast between classes that adapts them.

Self-TPT (Efficient Test-Time Prompt Tuning for Vision-Language Models, 2024,
https://arxiv.org/abs/2408.05775). The projection head's layout is our own; the paper gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from vlm_perception.modeling.towers.text_tower import TextTower
from vlm_perception.modeling.transformer_layers import normalise

LEARNED_VIEWS = 3
"""Places of a class's name in its prompts: front, middle, end."""
SELF = 1e9
"""Taken from the similarity of a text with itself, which says nothing."""


@dataclass(frozen=True)
class Head:
    """The weights of the projection h, through which texts are contrasted.

    [H, D], [H], [P, H] and [P]: D to H, GELU, H to P.
    """

    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Texts [N, D] as directions [N, P]."""
        inner = functional.gelu(features @ self.weight_in.T + self.bias_in)
        return normalise(inner @ self.weight_out.T + self.bias_out)


def prompted(tower: TextTower, context: Tensor, input_ids: Tensor, placement: Tensor) -> Tensor:
    """Embed texts in which some tokens are soft prompts.

    Args:
        tower: frozen; its attention is written out, so that it can be derived twice.
        context: the soft prompts, [n, W].
        input_ids: int64 [views, classes, L]; what stands where a soft prompt does is not read.
        placement: [views, classes, L, n], 1 where a token is this soft prompt, else 0.

    Returns:
        [views, classes, D], L2-normalised.
    """
    views, classes = input_ids.shape[:2]
    ids, places = input_ids.flatten(0, 1), placement.flatten(0, 1)
    own = places.sum(-1, keepdim=True)
    embeds = tower.token_embedding(ids) * (1.0 - own) + places @ context
    read: Tensor = tower.read(embeds, ids)
    return read.reshape(views, classes, -1)


def contrast(features: Tensor, written: Tensor, head: Head, temperature: Tensor) -> Tensor:
    """The contrast of classes (CPT): views of one class attract, others repel.

    The supervised contrastive loss of Khosla et al. (https://arxiv.org/abs/2004.11362), with the
    mean over a text's positives outside of the logarithm.

    Args:
        features: of the soft prompts' views, [views, classes, D].
        written: of hand-written prompts, [classes, D], as one view more.
        head: the projection.
        temperature: [].
    """
    classes = written.shape[0]
    texts = torch.cat([features.flatten(0, 1), written])
    directions = head.project(texts)
    same = torch.eye(classes, device=texts.device).repeat(features.shape[0] + 1, 1)
    same = same @ same.T
    itself = torch.eye(texts.shape[0], device=texts.device)
    scores = directions @ directions.T / temperature - SELF * itself
    shares = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    positives = same - itself
    return -((shares * positives).sum(1) / features.shape[0]).mean()


def adaptation_graph(tower: TextTower, example: dict[str, Tensor]) -> GraphModule:
    """A step of adaptation, by names alone, as a graph of plain operations.

    It takes what `example` has, in its order: context, the four weights of the head, temperature,
    input_ids, placement and written; see `prompted` and `contrast`. It gives the loss [], its
    gradient with respect to the context [n, W], and the features of the views [views, classes, D].
    The sizes of classes, n and, where the tower takes any, L are free.
    """

    def loss(context: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        *weights, temperature, input_ids, placement, written = rest
        features = prompted(tower, context, input_ids, placement)
        return contrast(features, written, Head(*weights), temperature), features

    def step(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient, (value, features) = torch.func.grad_and_value(loss, has_aux=True)(*inputs)
        return value, gradient, features

    traced: GraphModule = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        *example.values()
    )
    return traced


class LearnedHead(nn.Module):
    """The projection h while it is learned."""

    def __init__(self, width: int, inner: int, outer: int) -> None:
        """Begin with random weights."""
        super().__init__()
        self.first, self.last = nn.Linear(width, inner), nn.Linear(inner, outer)

    @property
    def weights(self) -> Head:
        """Its weights as they are now."""
        first, last = self.first, self.last
        return Head(first.weight, first.bias, last.weight, last.bias)
