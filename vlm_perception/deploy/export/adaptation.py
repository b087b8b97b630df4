# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The graph that adapts learned prompts to the labels of a site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlm_perception.bundle.bundle import ADAPT_GRAPH, TEXT_GRAPH
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.export.parts import Part
from vlm_perception.modeling.self_tpt import LEARNED_VIEWS, adaptation_graph
from vlm_perception.modeling.towers.text_tower import TextTower

OUTPUTS = ("loss", "gradient", "features")


def adaptation_part(source: Checkpoint, parts: Sequence[Part]) -> Part:
    """A step of adaptation, with a small example of five classes.

    Args:
        source: the checkpoint.
        parts: the graphs that are exported of it; the text tower is one.
    """
    tower = next(part.module for part in parts if part.name == TEXT_GRAPH)
    assert isinstance(tower, TextTower)
    inputs = _example(source, tower)
    length = {2: "length"} if tower.reads_end else {}
    dynamic = {
        "context": {0: "prompts"},
        "weight_in": {0: "inner"},
        "bias_in": {0: "inner"},
        "weight_out": {0: "outer", 1: "inner"},
        "bias_out": {0: "outer"},
        "input_ids": {1: "classes", **length},
        "placement": {1: "classes", **length, 3: "prompts"},
        "written": {0: "classes"},
    }
    return Part(ADAPT_GRAPH, adaptation_graph(tower, inputs), inputs, OUTPUTS, dynamic)


def _example(source: Checkpoint, tower: TextTower) -> dict[str, Tensor]:
    # Sizes that differ from each other and from one, or the exporter would take them as fixed.
    classes, prompts, inner, outer = 5, 4, 7, 6
    config, length = source.dual.config.text_config, source.text_length
    if tower.reads_end:
        length -= 2
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    width = int(source.family.vision.embedding_width(source.dual.config))
    shape = (LEARNED_VIEWS, classes, length)
    ids = torch.arange(LEARNED_VIEWS * classes * length).reshape(shape) % config.vocab_size
    if tower.reads_end:
        ids[..., -1] = config.eos_token_id
    placement = torch.zeros(*shape, prompts)
    for view in range(LEARNED_VIEWS):
        for prompt in range(prompts):
            placement[view, :, 1 + view + prompt, prompt] = 1.0
    return {
        "context": drawn(prompts, config.hidden_size),
        "weight_in": drawn(inner, width),
        "bias_in": drawn(inner),
        "weight_out": drawn(outer, inner),
        "bias_out": drawn(outer),
        "temperature": torch.tensor(0.1),
        "input_ids": ids,
        "placement": placement,
        "written": functional.normalize(drawn(classes, width), dim=-1),
    }
