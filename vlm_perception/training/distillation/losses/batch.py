# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a student gives for a batch of views, and what is known of them: what losses compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """Of the views that this process sees; all embeddings are in the student's space of texts."""

    pooled: Tensor
    """[B, D], of length 1."""
    patches: Tensor
    """[B, K, D], of length 1: each patch that is left, as if it stood alone."""
    index: Tensor
    """[B, K]: place of each in the grid."""
    hidden: Tensor
    """[B, K, W]: what the pooling reads of each."""
    texts: Mapping[str, Tensor]
    """[texts, D], of length 1: `captions` of the views, names of the teacher's `labels`, and what
    the `world` calls what it knows; those that a loss needs."""
    scale: Tensor
    bias: Tensor
    softmax: bool
    """Whether texts compete for an image, as in CLIP, or each has a probability of its own."""


@dataclass(frozen=True)
class TrueTargets:
    """What the road world knows."""

    names: Tensor
    """[B, names] in {0, 1}, of what it calls `world`."""
    patches: Tensor
    """[B, places, objects]: 1 shown, 0 not shown, -1 unknown; objects are the first names."""
    distance: Tensor
    """[B, places]: logarithm of metres, NaN where there is no object."""

    def to(self, device: torch.device) -> TrueTargets:
        """The same on a device."""
        return TrueTargets(self.names.to(device), self.patches.to(device), self.distance.to(device))


@dataclass(frozen=True)
class TaughtTargets:
    """What a teacher said."""

    pooled: Tensor
    """[B, T], of length 1."""
    patches: Tensor | None
    """[B, places, T], of length 1, of the student's grid."""
    label_ids: Tensor
    """int64 [B, K]."""
    label_probabilities: Tensor
    """[B, K]."""
    label_texts: Tensor
    """[labels, T], of length 1."""
    scale: float


@dataclass(frozen=True)
class Part:
    """A process's part of a loss: the loss is the sum of the totals over that of the weights."""

    total: Tensor
    weight: Tensor

    @classmethod
    def mean(cls, values: Tensor) -> Part:
        """The mean of values, [N]."""
        return cls(values.sum(), torch.tensor(float(values.numel()), device=values.device))
