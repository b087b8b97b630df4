# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The trained temporal module: the present embedding attends to earlier ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vlm_perception.bundle.manifest import ReadoutSpec, describe_errors
from vlm_perception.common.export_error import ExportError
from vlm_perception.modeling.pixel_scaling import read_json

Size = Annotated[int, Field(ge=1)]
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
AGE_FEATURES = 3
STEEPNESS = (10.0, 3.0, 1.0, 0.3)
"""How fast the weight of a memory falls with its age at first, per second, head by head."""
DISTANCE_UNIT = 0.1
"""Cosine distance by which the learned multiples are counted."""
BLOCKED = -1e9
LEAST_EVIDENCE = -6.0
"""Log-probability below which the readouts do not distinguish choices."""


class TemporalConfig(BaseModel):
    """Sizes of the module."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    width: Size
    """Of the pooled embedding."""
    slots: Size = 32
    """Earlier embeddings that are remembered."""
    heads: Size = 4
    head_width: Size = 24
    hidden: Size = 96
    event_width: Size = 32
    drift_unit: Annotated[float, Field(gt=0.0)] = 0.2
    """Cosine distance of two events at which an answer to one hardly counts for the other."""
    readouts: tuple[ReadoutSpec, ...] = ()

    @property
    def choices(self) -> list[int]:
        """How many choices each readout has."""
        return [len(spec.choices) for spec in self.readouts]


class TemporalAttention(nn.Module):
    """Cross-attention over a memory of pooled embeddings, one set of weights for all times.

    The score of a memory in a head is the product of query and key, a learned multiple of the
    cosine distance from the present, and a learned function of its age. A gate that looks at the
    present mixes the heads' weights; the *state* is the mean of the embeddings under these weights,
    normalised: it lies among them, so it can be compared with any text. The *event* embedding is
    read from the state and the heads' values and is free to be whatever distinguishes answers. The
    *evidence* is a linear readout of both for the typed questions.
    """

    def __init__(self, config: TemporalConfig) -> None:
        """Begin near an average over a few tenths of a second."""
        super().__init__()
        self.config = config
        inner = config.heads * config.head_width
        self.query = nn.Linear(config.width, inner)
        self.key = nn.Linear(config.width, inner, bias=False)
        self.value = nn.Linear(config.width, inner, bias=False)
        self.gate = nn.Linear(config.width, config.heads)
        self.age = nn.Parameter(torch.zeros(config.heads, AGE_FEATURES))
        self.distance = nn.Parameter(torch.full((config.heads,), 3.0))
        self.hidden = nn.Linear(config.width + inner, config.hidden)
        self.event = nn.Linear(config.hidden, config.event_width)
        if config.readouts:
            self.readout = nn.Linear(config.width + config.event_width, sum(config.choices))
        with torch.no_grad():
            steep = torch.tensor([STEEPNESS[h % len(STEEPNESS)] for h in range(config.heads)])
            self.age[:, 0] = -steep

    def forward(self, pooled: Tensor, memory: Tensor, ages: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            pooled: [1, D], the present, L2-normalised.
            memory: [1, M, D], earlier ones.
            ages: [1, M], in seconds; negative where the memory is empty.

        Returns:
            state [1, D] and event [1, E], both L2-normalised; with readouts their evidence, too,
            [1, choices], log-probabilities.
        """
        keys = torch.cat((pooled[:, None], memory), dim=1)
        every = torch.cat((torch.zeros_like(ages[:, :1]), ages), dim=1)
        state, event = self.attend(pooled[:, None], keys, every[:, None])
        if not self.config.readouts:
            return state[:, 0], event[:, 0]
        return state[:, 0], event[:, 0], self.evidence(state, event)[:, 0]

    def attend(self, queries: Tensor, keys: Tensor, ages: Tensor) -> tuple[Tensor, Tensor]:
        """Any number of steps over one memory.

        Args:
            queries: [B, Q, D].
            keys: [B, K, D].
            ages: [B, Q, K], in seconds; negative where a query must not look.

        Returns:
            state [B, Q, D] and event [B, Q, E].
        """
        config = self.config
        query, key, value = (
            part.unflatten(-1, (config.heads, config.head_width)).transpose(1, 2)
            for part in (self.query(queries), self.key(keys), self.value(keys))
        )
        scores = query @ key.transpose(-1, -2) / config.head_width**0.5
        distances = 1.0 - queries @ keys.transpose(-1, -2)
        known = ages >= 0.0
        since = torch.where(known, ages, torch.zeros_like(ages))
        features = torch.stack((since, since * since, torch.log1p(10.0 * since)), dim=-1)
        scores = scores + (features @ self.age.T).movedim(-1, 1)
        multiple = functional.softplus(self.distance)[:, None, None] / DISTANCE_UNIT
        scores = scores - distances[:, None] * multiple
        scores = scores.masked_fill(~known[:, None], BLOCKED)
        weights = scores.softmax(dim=-1)
        shares = self.gate(queries).softmax(dim=-1)
        mixed = (weights * shares.movedim(-1, 1)[..., None]).sum(dim=1)
        state = functional.normalize(mixed @ keys, dim=-1)
        values = (weights @ value).transpose(1, 2).flatten(-2)
        hidden = functional.gelu(self.hidden(torch.cat((state, values), dim=-1)))
        return state, functional.normalize(self.event(hidden), dim=-1)

    def evidence(self, state: Tensor, event: Tensor) -> Tensor:
        """Log-probabilities of all readouts' choices, [..., choices], from what attend gives."""
        parts = self.readout(torch.cat((state, event), dim=-1)).split(self.config.choices, dim=-1)
        said = torch.cat([part.log_softmax(dim=-1) for part in parts], dim=-1)
        return said.clamp(min=LEAST_EVIDENCE)


def ages_within(times: Tensor, slots: int) -> Tensor:
    """Ages for attend over a whole sequence, [B, T, T]; negative for what a tick must not look at.

    Args:
        times: [B, T], in seconds, rising.
        slots: how many earlier ticks are remembered.
    """
    ages = times[:, :, None] - times[:, None, :]
    order = torch.arange(times.shape[1], device=times.device)
    back = order[:, None] - order[None, :]
    return torch.where((back >= 0) & (back <= slots), ages, torch.full_like(ages, -1.0))


def save_temporal(module: TemporalAttention, directory: Path) -> Path:
    """Write the module with its weights in half precision."""
    directory.mkdir(parents=True, exist_ok=True)
    config = module.config.model_dump_json(indent=2) + "\n"
    (directory / CONFIG_NAME).write_text(config, encoding="utf-8")
    weights = {n: w.detach().cpu().half().contiguous() for n, w in module.state_dict().items()}
    save_file(weights, directory / WEIGHTS_NAME)
    return directory


def load_temporal(directory: Path, width: int) -> TemporalAttention | None:
    """Read the module of a checkpoint; None where it has none.

    Args:
        directory: `temporal/` of the checkpoint.
        width: of the checkpoint's pooled embeddings.

    Raises:
        ExportError: it is damaged, or made for embeddings of another width.
    """
    if not directory.is_dir():
        return None
    try:
        # As JSON, since only there a list is taken for a tuple.
        config = TemporalConfig.model_validate_json(json.dumps(read_json(directory / CONFIG_NAME)))
    except ValidationError as error:
        raise ExportError(f"{directory / CONFIG_NAME}: {describe_errors(error)}") from error
    if config.width != width:
        raise ExportError(
            f"{directory} was trained on embeddings of width {config.width} but dual/ outputs "
            f"{width}; train it again with `vlm-perception train temporal`, or remove it"
        )
    module = TemporalAttention(config)
    try:
        weights = load_file(directory / WEIGHTS_NAME)
        module.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ExportError(f"{directory / WEIGHTS_NAME} cannot be loaded: {error}") from error
    return module.eval().requires_grad_(False)
