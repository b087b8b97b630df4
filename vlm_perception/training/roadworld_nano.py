# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains `roadworld-nano` from nothing: shards, dual encoder, language model, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn
from transformers import LlavaForConditionalGeneration, SiglipModel

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.datasets.roadworld.files.shards import (
    SCENES_PER_SHARD,
    Shard,
    ShardSpec,
    open_shard,
    render_shards,
)
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.outputs.own import own_folder
from vlm_perception.training.checkpoint import calibrate, save_checkpoint
from vlm_perception.training.distillation.language.dialogues import Dialogues, balancing_weights
from vlm_perception.training.distillation.language.features import (
    cache_features,
    chunks_of,
    count_chunks,
)
from vlm_perception.training.distillation.language.objective import LanguageObjective
from vlm_perception.training.distillation.language.scenes import FeatureScenes
from vlm_perception.training.distillation.learned import Learned, read_learned
from vlm_perception.training.dual import (
    LOSS_WEIGHTS,
    DualObjective,
    Scenes,
    order,
)
from vlm_perception.training.locations import grow, store, with_locations
from vlm_perception.training.loop import Schedule, fit
from vlm_perception.training.student import (
    GRID,
    INPUT_SIZE,
    LAYERS,
    build_dual,
    build_tokenizer,
    build_vlm,
)
from vlm_perception.training.tower import PRUNED_SHARE

KEEP = parse_schedule("0.7@2,3,4", LAYERS, GRID[0] * GRID[1])
"""The pruning that the shipped bundle is exported with."""
VERB = "train roadworld"
CHECKPOINT, WORK = "checkpoint", "work"
RESULTS = (f"{CHECKPOINT}/*", f"{CHECKPOINT}/*/*")
EASY_SHARDS = 5
EASY_SMALL, FULL_SMALL = 0.05, 0.3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained student is."""

    seed: int = 0
    dual_shards: int = 26
    """0: the dual encoder and its calibration stay as they are in `start`."""
    vlm_first_shard: int = 26
    """Scenes that the vision tower was not trained on: on its own it knows more than it sees."""
    vlm_shards: int = 12
    calibration_seed: int = 5_000_000
    start: Path | None = None
    """A checkpoint directory to go on from; without it everything begins with random weights."""
    keep: tuple[KeepStep, ...] = KEEP
    """Steps of token pruning that the student is to live with."""
    dual: Schedule = field(default_factory=lambda: Schedule(steps=2500, batch=64))
    vlm: Schedule = field(default_factory=lambda: Schedule(steps=1000, batch=64))


RECIPE = Recipe()
FINE_TUNE = Recipe(
    dual_shards=12,
    vlm_first_shard=12,
    vlm_shards=8,
    dual=Schedule(steps=600, batch=64, peak_rate=2.5e-4),
    vlm=Schedule(steps=320, batch=64, peak_rate=4e-4),
)
"""To continue from an already trained student, for example with another pruning schedule."""
LANGUAGE = Recipe(
    dual_shards=0,
    vlm_first_shard=500,
    vlm_shards=7,
    vlm=Schedule(steps=3000, batch=32),
)
"""To teach the language model of a trained student something new; its tags stay as they are."""


def preprocess(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A 16:9 render to the size of the network's input."""
    return np.asarray(cv2.resize(image, INPUT_SIZE, interpolation=cv2.INTER_AREA), np.uint8)


def dual_specs(recipe: Recipe) -> list[ShardSpec]:
    """Shards for the dual encoder, the easy ones first."""
    return [
        ShardSpec(
            i * SCENES_PER_SHARD,
            SCENES_PER_SHARD,
            EASY_SMALL if i < EASY_SHARDS else FULL_SMALL,
            GRID,
        )
        for i in range(recipe.dual_shards)
    ]


def vlm_specs(recipe: Recipe) -> list[ShardSpec]:
    """Shards for the language model."""
    first = recipe.vlm_first_shard
    return [
        ShardSpec(i * SCENES_PER_SHARD, SCENES_PER_SHARD, FULL_SMALL, GRID)
        for i in range(first, first + recipe.vlm_shards)
    ]


def prepare(specs: Sequence[ShardSpec], work: Path, workers: int) -> list[Shard]:
    """Render the shards that are missing and open all."""
    paths = render_shards(specs, work / "shards", preprocess, workers)
    return [open_shard(path) for path in track(paths, "Rendering scenes", total=len(specs))]


def training_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_dual(recipe: Recipe, shards: list[Shard], work: Path) -> SiglipModel:
    """Train (or resume) the dual encoder and return it."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    scenes = Scenes(shards)
    if recipe.start is None:
        model = build_dual(tokenizer)
    else:
        model = SiglipModel.from_pretrained(recipe.start / "dual", dtype=torch.float32)
    objective = DualObjective(model, tokenizer, recipe.keep).to(training_device())
    easy = sum(len(shard.labels) for shard in shards[:EASY_SHARDS])
    plan = list(order(len(scenes), easy, recipe.dual.batch, recipe.dual.steps, recipe.seed))

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((recipe.seed, 7, step))
        result: dict[str, torch.Tensor] = objective(scenes.batch(plan[step], rng), rng)
        return result

    fit(objective, losses, LOSS_WEIGHTS, recipe.dual, work / "dual", "dual encoder")
    return objective.model


def train_vlm(
    recipe: Recipe, shards: list[Shard], dual: SiglipModel, work: Path
) -> LlavaForConditionalGeneration:
    """Train (or resume) the language model on the features of `dual`'s vision tower."""
    torch.manual_seed(recipe.seed + 1)
    words = build_tokenizer()
    tokenizer = with_locations(words)
    if recipe.start is None:
        model = build_vlm(words)
    else:
        model = LlavaForConditionalGeneration.from_pretrained(
            recipe.start / "vlm", dtype=torch.float32
        )
    grow(model, len(tokenizer))
    model.model.vision_tower.load_state_dict(dual.vision_model.state_dict())
    nn.Module.to(model, training_device())
    dialogues = Dialogues(tokenizer, balancing_weights(shards))
    whole, pruned = (
        _feature_scenes(dual, shards, dialogues, work / name, keep)
        for name, keep in (("image_tokens.npy", ()), ("kept_tokens.npy", recipe.keep))
    )
    objective = LanguageObjective(model, [tokenizer.bos_token_id])
    plan = list(order(len(whole), len(whole), recipe.vlm.batch, recipe.vlm.steps, recipe.seed))

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((recipe.seed, 8, step))
        scenes = pruned if rng.random() < PRUNED_SHARE else whole
        batch = scenes.batch(plan[step], rng)
        result: dict[str, torch.Tensor] = objective(batch.features, batch.packed)
        return result

    fit(
        objective,
        losses,
        {"caption": 1.0, "answers": 1.0, "instructions": 1.0, "locations": 1.0},
        recipe.vlm,
        work / "vlm",
        "language model",
    )
    store(model, objective.table())
    return model


def _feature_scenes(
    dual: SiglipModel,
    shards: list[Shard],
    dialogues: Dialogues,
    path: Path,
    keep: Sequence[KeepStep],
) -> FeatureScenes:
    features = cache_features(
        dual.vision_model, chunks_of(shards), path, keep, chunks=count_chunks(shards)
    )
    return FeatureScenes(shards, features, dialogues, prefix=features.shape[1] + 1)


def train(out: Path, recipe: Recipe = RECIPE) -> Path:
    """Train the student from nothing, or go on where an earlier run stopped.

    Args:
        out: takes the rendered scenes (some 20 GB), logs, checkpoints and the result.
        recipe: what is trained on what, and for how long.

    Returns:
        The checkpoint directory, `out`/checkpoint, ready for `vlm-perception export`.

    Raises:
        OutputError: `out` contains the checkpoint to continue from, another one in the result's
            place, or other files in the working folders.
    """
    read = [recipe.start] if recipe.start is not None else []
    results = ResultsFolder(out, VERB, RESULTS, read)
    with results, own_folder(out / WORK, VERB) as work:
        if results.left_over:
            results.clear()
        _train(work, recipe, results.work / CHECKPOINT)
        results.publish()
    return out / CHECKPOINT


def _train(work: Path, recipe: Recipe, result: Path) -> None:
    workers = os.cpu_count() or 1
    tokenizer = build_tokenizer()
    if recipe.start is not None and not recipe.dual_shards:
        dual = SiglipModel.from_pretrained(recipe.start / "dual", dtype=torch.float32)
        spec = read_yaml(recipe.start / "bundle.yaml")
        labels = spec["vocabulary"]["labels"]
        vlm = train_vlm(recipe, prepare(vlm_specs(recipe), work, workers), dual, work)
    else:
        dual = train_dual(recipe, prepare(dual_specs(recipe), work, workers), work)
        vlm = train_vlm(recipe, prepare(vlm_specs(recipe), work, workers), dual, work)
        nn.Module.to(dual, "cpu")
        held_out = [ShardSpec(recipe.calibration_seed, SCENES_PER_SHARD, FULL_SMALL, GRID)]
        labels = calibrate(dual, tokenizer, prepare(held_out, work, workers), recipe.keep)
    nn.Module.to(vlm, "cpu")
    save_checkpoint(dual, vlm, tokenizer, labels, result)
    specs = [*dual_specs(recipe), *vlm_specs(recipe)]
    seeds = tuple((spec.first_seed, spec.first_seed + spec.scenes) for spec in specs)
    before = read_learned(recipe.start / "dual") if recipe.start is not None else None
    (Learned(seeds=seeds) | (before or Learned())).write(result)
