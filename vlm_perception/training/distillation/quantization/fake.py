# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization as training sees it: the values that an engine computes with, and gradients.

Rounding has the gradient of the identity within the range, and none beyond. Steps learn as in LSQ
(https://arxiv.org/abs/1902.08153, equations 3 and 5, section 2.2 for the scale of the gradient), by
their logarithm, so that the optimizer's strides suit steps of any size
(https://arxiv.org/abs/1903.08066, section 3.1).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_perception.deploy.compression.steps import (
    LEAST_STEP,
    Method,
    Spread,
    largest_code,
    symmetric_steps,
    weight_steps,
)

STRIDE = 10.0
"""Strides of a step's logarithm are so many times those of weights."""
MOVING = 0.05
"""Share of the newest batch in a moving average of ranges."""
RENEW = 20
"""After so many batches a weight's steps follow it, where they are not learned."""
BINS = 2048


def half_steps(steps: Tensor) -> Tensor:
    """The next larger numbers that FP16 holds, at least LEAST_STEP: what a graph can have."""
    # What a logarithm and its exponential lose must not make a step larger.
    exact = (steps * (1 - 1e-6)).clamp(min=LEAST_STEP)
    half = exact.half()
    up = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.float() < exact, up, half).float()


class _Quantize(torch.autograd.Function):
    """Values, and their steps, to the nearest multiples of the steps."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: Tensor, least: int, most: int) -> Tensor:
        scaled = values / steps
        codes = scaled.round().clamp_(least, most)
        ctx.save_for_backward(scaled, codes, steps)
        ctx.bounds = least, most
        return codes * steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        scaled, codes, steps = ctx.saved_tensors
        (gradient,), (least, most) = gradients, ctx.bounds
        inside = (scaled >= least) & (scaled <= most)
        slope = torch.where(inside, codes - scaled, codes)
        of_steps = (gradient * slope).sum_to_size(steps.shape)
        each = scaled.numel() // steps.numel()
        return gradient * inside, of_steps / math.sqrt(each * most), None, None


class _HeldStep(torch.autograd.Function):
    """The step that a graph can have, of its logarithm."""

    @staticmethod
    def forward(ctx: Any, logarithm: Tensor) -> Tensor:
        steps = half_steps(logarithm.mul(STRIDE).exp())
        ctx.save_for_backward(steps)
        return steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (steps,) = ctx.saved_tensors
        gradient: Tensor = gradients[0] * steps * STRIDE
        return gradient


def _apply(function: Any, *arguments: Any) -> Tensor:
    """Call a function with a gradient of its own, which carries no types."""
    result: Tensor = function.apply(*arguments)
    return result


class _Steps(nn.Module):
    """Steps that are learned, or that follow what is measured."""

    def __init__(self, steps: NDArray[np.float32], *, learned: bool) -> None:
        super().__init__()
        start = torch.from_numpy(np.asarray(steps, np.float32))
        self.learned = learned
        if learned:
            self.logarithm = nn.Parameter(start.log() / STRIDE)
        else:
            self.measured = nn.Buffer(start.clone())

    def forward(self) -> Tensor:
        if self.learned:
            return _apply(_HeldStep, self.logarithm)
        return self.measured

    def numpy(self) -> NDArray[np.float32]:
        """As a graph has them."""
        steps: NDArray[np.float32] = self().detach().numpy().copy()
        return steps


class InputQuantizer(nn.Module):
    """Quantizes an input with one step."""

    def __init__(
        self, step: float, bits: int, *, learned: bool, method: Method, percentile: float
    ) -> None:
        """Start with a step; without `learned`, it follows the range that `method` finds."""
        super().__init__()
        self.steps = _Steps(np.array(step, np.float32), learned=learned)
        self._bits, self._method, self._percentile = bits, method, percentile
        self._most = largest_code(bits)
        # Eight bits saturate where INT8 does; fewer are cut off by a Clip, which is symmetric.
        self._least = -128 if bits == 8 else -self._most
        self.range = nn.Buffer(torch.tensor(step * self._most))

    def forward(self, values: Tensor) -> Tensor:
        """Quantize."""
        if self.training and not self.steps.learned:
            self._follow(values.detach())
        return _apply(_Quantize, values, self.steps(), self._least, self._most)

    def _follow(self, values: Tensor) -> None:
        least, most = float(values.min()), float(values.max())
        edge = max(abs(least), abs(most), LEAST_STEP)
        counts = torch.histc(values, BINS, -edge, edge).long().numpy()
        spread = Spread(counts, np.linspace(-edge, edge, BINS + 1), least, most)
        found = spread.range(self._method, self._percentile, self._bits)
        self.range.lerp_(torch.tensor(found, dtype=torch.float32), MOVING)
        step = symmetric_steps(self.range.numpy(), self._bits)
        self.steps.measured.copy_(torch.from_numpy(np.asarray(step)))


class WeightQuantizer(nn.Module):
    """Quantizes a weight [outputs, inputs], as FP16 holds it, with a step for each output."""

    def __init__(
        self, steps: NDArray[np.float32], bits: int, *, learned: bool, method: Method
    ) -> None:
        """Start with steps; without `learned`, they follow the weight."""
        super().__init__()
        self.steps = _Steps(steps, learned=learned)
        self._bits, self._method, self._seen = bits, method, 0

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize."""
        held = weight + (weight.half().float() - weight).detach()
        if self.training and not self.steps.learned:
            if self._seen % RENEW == 0:
                self.renew(held.detach())
            self._seen += 1
        most = largest_code(self._bits)
        return _apply(_Quantize, held, self.steps().unsqueeze(1), -most, most)

    def renew(self, weight: Tensor) -> None:
        """Let steps that are not learned follow the weight."""
        found = weight_steps(weight.numpy(), 0, self._method, self._bits)
        self.steps.measured.copy_(torch.from_numpy(found))
