# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Fits the readouts of a trained temporal module: the typed questions, read from what it gives.

A linear probe (Alain and Bengio, <https://arxiv.org/abs/1610.01644>): the module stays as it is.
The loss is convex, so that no rate, no seed and no checkpoint are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_perception.bundle.manifest import ReadoutSpec
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.modeling.temporal_attention import TemporalAttention, ages_within
from vlm_perception.training.temporal_data import Seen

HZ = 10.0
"""A faster sequence is subsampled to this rate: neighbouring frames hardly differ."""
WEIGHT_DECAY = 1e-4
STEPS = 200
LEAST_DEVIATION = 1e-3


def fit_readouts(module: TemporalAttention, seen: Sequence[Seen]) -> TemporalAttention:
    """The same module with readouts of the road world's questions, fitted to the truth.

    Args:
        module: trained, without readouts or with old ones.
        seen: sequences, with the truth of every frame.
    """
    specs = tuple(ReadoutSpec(name=n, choices=choices) for n, (_, choices) in QUESTIONS.items())
    fitted = TemporalAttention(module.config.model_copy(update={"readouts": specs}))
    old = {name: w for name, w in module.state_dict().items() if not name.startswith("readout.")}
    fitted.load_state_dict(old, strict=False)
    with torch.no_grad():
        inputs = torch.cat([_attend(fitted, each) for each in seen])
    truths = torch.cat([torch.from_numpy(each.truths[:: _step(each)]) for each in seen])
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0) + LEAST_DEVIATION
    probe = _probe((inputs - mean) / deviation, truths, fitted.config.choices)
    with torch.no_grad():
        fitted.readout.weight.copy_(probe.weight / deviation)
        fitted.readout.bias.copy_(probe.bias - fitted.readout.weight @ mean)
    return fitted


def _attend(module: TemporalAttention, seen: Seen) -> Tensor:
    """State and event of the frames that count, [N, D + E]."""
    pooled = torch.from_numpy(seen.pooled)[None]
    times = torch.arange(len(seen.pooled))[None] / seen.hz
    state, event = module.attend(pooled, pooled, ages_within(times, module.config.slots))
    return torch.cat((state, event), dim=-1)[0, :: _step(seen)]


def _step(seen: Seen) -> int:
    return max(1, round(seen.hz / HZ))


def _probe(inputs: Tensor, truths: Tensor, sizes: list[int]) -> nn.Linear:
    """Logistic regression of all questions at once, by L-BFGS."""
    probe = nn.Linear(inputs.shape[1], sum(sizes))
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(
        probe.parameters(), max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        parts = probe(inputs).split(sizes, dim=-1)
        losses = [F.cross_entropy(part, truths[:, i]) for i, part in enumerate(parts)]
        loss = torch.stack(losses).mean() + WEIGHT_DECAY * probe.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return probe
