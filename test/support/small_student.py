# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A small student with random weights and an invented batch; as a program one of two processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.training.distillation.examples import Example, Truth
from vlm_perception.training.distillation.losses.batch import TaughtTargets
from vlm_perception.training.distillation.recipe import Recipe
from vlm_perception.training.distillation.student.batches import Batch, Place
from vlm_perception.training.distillation.student.build import begin
from vlm_perception.training.distillation.student.encoder import StudentEncoder
from vlm_perception.training.distillation.student.objective import LOSSES, StudentObjective
from vlm_perception.training.processes import Processes

SIZE, PATCH = (64, 32), 16
GRID = SIZE[0] // PATCH, SIZE[1] // PATCH
WORDS = {"car": ["car", "a photo of a car"], "fog": ["fog"], "cone": ["cone"]}


def recipe(family: str, size: tuple[int, int] = SIZE) -> Recipe:
    """Of a student with random weights, for an image that its table of positions may not fit."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": 64, "patch_size": PATCH}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16}
    text |= {"projection_size": 32} if family == "siglip" else {"projection_dim": 32}
    content = {
        "name": "small",
        "images": {"kind": "road-world"},
        "student": {
            "start": {
                "kind": "config",
                "vision": {"model_type": f"{family}_vision_model", **vision},
                "text": {"model_type": f"{family}_text_model", **text},
                "tokenizer": "road-world",
            },
            "size": size,
            "losses": {"pooled": 1.0},
            "training": {"steps": 1},
        },
    }
    return Recipe.model_validate_json(json.dumps(content))


def student(
    family: str, folder: Path, keep: str = "", size: tuple[int, int] = SIZE
) -> StudentEncoder:
    """With random weights, large enough for every input to change the output."""
    begin(recipe(family, size), folder, folder / "begun", lambda: torch.empty(0))
    return opened(folder, keep, size)


def opened(folder: Path, keep: str = "", size: tuple[int, int] = SIZE) -> StudentEncoder:
    """The student that `begin` has written, with other weights."""
    encoder = StudentEncoder(folder / "begun", size)
    if keep:
        encoder.keep = parse_schedule(keep, 3, encoder.grid[0] * encoder.grid[1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.ndim == 2:
                scale = weight.shape[1] ** -0.5
                weight.copy_(1.2 * scale * torch.randn(weight.shape, generator=generator))
    return encoder


def invented(count: int) -> tuple[Batch, TaughtTargets]:
    """Views with random truth, and what an imagined teacher says of them."""
    rng = np.random.default_rng(0)
    places = GRID[1], GRID[0]
    examples = [
        Example(
            str(i),
            rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8),
            (f"a car and {i} cones", "fog"),
            Truth(
                rng.random(len(LABELS)) < 0.4,
                np.zeros(8, np.uint8),
                rng.integers(0, 60, (*places, len(OBJECT_LABELS)), np.uint8),
                np.where(rng.random(places) < 0.3, np.nan, 10.0).astype(np.float32),
            ),
        )
        for i in range(count)
    ]
    torch.manual_seed(1)
    taught = TaughtTargets(
        functional.normalize(torch.randn(count, 24), dim=-1),
        functional.normalize(torch.randn(count, GRID[0] * GRID[1], 24), dim=-1),
        torch.tensor([[0, 2]] * count),
        torch.tensor([[0.7, 0.2]] * count),
        functional.normalize(torch.randn(3, 24), dim=-1),
        10.0,
    )
    captions = [each.captions[i % 2] for i, each in enumerate(examples)]
    return Batch([Place(i, 0) for i in range(count)], examples, captions), taught


def step(encoder: StudentEncoder, micro: int, count: int = 4) -> dict[str, float]:
    """One step's losses over all processes, whose gradients are in the student then."""
    torch.manual_seed(2)
    processes = Processes()
    objective = StudentObjective(encoder, LOSSES, processes, micro, 24)
    batch, taught = invented(count)
    own = slice(*(np.array([0, 1]) + processes.number) * (count // processes.count))
    batch = Batch(batch.places[own], batch.examples[own], batch.captions[own])
    said = (taught.pooled, taught.patches, taught.label_ids, taught.label_probabilities)
    mine = TaughtTargets(*(each[own] for each in said), taught.label_texts, taught.scale)
    parts = objective(batch, WORDS, mine, np.random.default_rng(0))
    losses = {name: part.total / processes.total(part.weight) for name, part in parts.items()}
    encoder.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    processes.add_gradients(encoder.parameters())
    return {name: float(processes.total(loss.detach())) for name, loss in losses.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    # Two processes for the time that one takes to import torch.
    other = os.fork()
    os.environ |= {"WORLD_SIZE": "2"} | dict.fromkeys(("RANK", "LOCAL_RANK"), str(int(not other)))
    learner = opened(place)
    found = step(learner, 2)
    if Processes().first:
        torch.save([each.grad for each in learner.parameters()], place / "two.pt")
        (place / "two.json").write_text(json.dumps(found))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
