# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings, of decoders and of vision towers."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864), halves rotated."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine
