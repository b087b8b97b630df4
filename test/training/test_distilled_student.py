# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A student sees what its exported tower sees, and learns the same in parts as at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from support.checkpoints import make_checkpoint
from torch.nn import functional

from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import look
from vlm_perception.datasets.roadworld.truth import seen_in
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.modeling.pixel_scaling import read_normalisation
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.training.distillation.examples import Example, Truth, View
from vlm_perception.training.distillation.images.pixels import crop
from vlm_perception.training.distillation.losses.batch import TaughtTargets
from vlm_perception.training.distillation.recipe import Recipe
from vlm_perception.training.distillation.student.batches import Batch, Place
from vlm_perception.training.distillation.student.build import begin
from vlm_perception.training.distillation.student.encoder import StudentEncoder
from vlm_perception.training.distillation.student.objective import LOSSES, StudentObjective
from vlm_perception.training.drift import WINDOW, Drift
from vlm_perception.training.processes import Processes

SIZE, PATCH = (64, 32), 16
GRID = SIZE[0] // PATCH, SIZE[1] // PATCH
WORDS = {"car": ["car", "a photo of a car"], "fog": ["fog"], "cone": ["cone"]}


def recipe(family: str, tokenizer: str) -> Recipe:
    """Of a student with random weights, for an image that its table of positions does not fit."""
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
                "tokenizer": tokenizer,
            },
            "size": SIZE,
            "losses": {"pooled": 1.0},
            "training": {"steps": 1},
        },
    }
    return Recipe.model_validate_json(json.dumps(content))


def student(family: str, folder: Path, keep: str = "") -> StudentEncoder:
    """With random weights, large enough for every input to change the output."""
    tokenizer = "road-world"
    if family == "clip":
        tokenizer = str(make_checkpoint(folder / "other", family="clip", language=None))
    begin(recipe(family, tokenizer), folder, folder / "begun", lambda: torch.empty(0))
    encoder = StudentEncoder(folder / "begun", SIZE)
    if keep:
        encoder.keep = parse_schedule(keep, 3, GRID[0] * GRID[1])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.ndim == 2:
                size = weight.shape[1] ** -0.5
                weight.copy_(1.2 * size * torch.randn(weight.shape, generator=generator))
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
    """One step's losses, whose gradients are in the student then."""
    torch.manual_seed(2)
    objective = StudentObjective(encoder, LOSSES, Processes(), micro, 24)
    batch, taught = invented(count)
    parts = objective(batch, WORDS, taught, np.random.default_rng(0))
    losses = {name: part.total / part.weight for name, part in parts.items()}
    encoder.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_a_student_is_trained_on_what_its_exported_tower_gives(family: str, tmp_path: Path) -> None:
    encoder = student(family, tmp_path, "0.5@1")
    image = torch.randint(0, 256, (1, SIZE[1], SIZE[0], 3), dtype=torch.uint8)
    scaling = read_normalisation(tmp_path / "begun")
    vision = encoder.reader.family.vision
    for pruned in (False, True):
        graph = vision(
            encoder.model,
            positions=vision.parts(encoder.model.vision_model).positions.of_grid(*GRID),
            mean=scaling.mean,
            std=scaling.std,
            feature_layers=[-1],
            keep=encoder.keep if pruned else (),
        )
        with torch.no_grad():
            exported = graph(image)
            with torch.autocast("cpu", enabled=False):
                seen = encoder.see_in_full(image, pruned)
        torch.testing.assert_close(
            functional.normalize(seen.pooled, dim=-1), exported[0], atol=1e-4, rtol=0
        )
        kept = seen.index.shape[1]
        patches = functional.normalize(seen.patches, dim=-1)
        torch.testing.assert_close(patches, exported[2][:, :kept], atol=1e-4, rtol=0)
        if pruned:
            assert torch.equal(seen.index[0], exported[3][:-1])


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_micro_batches_give_the_losses_and_gradients_of_the_whole_batch(
    family: str, tmp_path: Path
) -> None:
    encoder = student(family, tmp_path, "0.5@1")
    whole = step(encoder, 4)
    wanted = [each.grad for each in encoder.parameters()]
    parts = step(encoder, 1)
    assert whole.keys() == parts.keys() == set(LOSSES)
    for name, loss in whole.items():
        assert parts[name] == pytest.approx(loss, rel=2e-3), name
    for mine, other in zip(encoder.parameters(), wanted, strict=True):
        if other is not None and float(other.norm()) > 1e-3:
            assert mine.grad is not None
            cosine = functional.cosine_similarity(mine.grad.flatten(), other.flatten(), dim=0)
            assert float(cosine) > 0.99


def test_the_truth_of_a_view_is_that_of_its_pixels() -> None:
    street = look(sample_scene(3), (640, 360))
    assert seen_in(street.truth, street.rendered.ids) == street.truth
    view = View(0.25, 0.25, 0.5)
    ids = crop(street.rendered.ids, view)
    part = seen_in(street.truth, ids)
    assert {thing.identity for thing in part.objects} == set(np.unique(ids)) - {0}
    for thing in part.objects:
        assert thing.share == np.count_nonzero(ids == thing.identity) / ids.size
    twice = crop(crop(ids, View(mirrored=True)), View(mirrored=True))
    assert np.array_equal(twice, ids)


def test_drift_is_told_once_and_only_when_losses_part() -> None:
    drift = Drift()
    together = [drift.take({"a": 1.0 - 0.02 * i, "b": 2.0 - 0.02 * i}) for i in range(3 * WINDOW)]
    assert not any(together)
    apart = [drift.take({"a": 0.5 + 0.1 * i, "b": 1.5 - 0.1 * i}) for i in range(2 * WINDOW)]
    assert {"rises": ["a"], "falls": ["b"]} in apart
