# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `language` of a run: a language model learns to read the finished vision tower."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS
from vlm_perception.deploy.checkpoints.files import weight_files
from vlm_perception.deploy.checkpoints.vlm_reader import language_folder
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.training.distillation.language.features import cache_features, read_places
from vlm_perception.training.distillation.language.model import Reader, build_reader
from vlm_perception.training.distillation.language.objective import LanguageObjective
from vlm_perception.training.distillation.language.result import save_result
from vlm_perception.training.distillation.language.scenes import FeatureScenes
from vlm_perception.training.distillation.language.sources import Sources, open_sources
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import (
    CheckpointLanguage,
    DistillationError,
    Language,
)
from vlm_perception.training.distillation.student.batches import order
from vlm_perception.training.distillation.student.build import place
from vlm_perception.training.locations import store
from vlm_perception.training.loop import fit
from vlm_perception.training.tower import PRUNED_SHARE

NAME, CACHE = "language", "cache"


def make(run: Run, work: Path) -> None:
    """Train the language model of a recipe, and write a checkpoint directory.

    Raises:
        DistillationError: the recipe's parts do not fit each other.
        ExportError: a checkpoint cannot be read, or the bridge does not fit.
    """
    recipe, language = run.recipe, run.recipe.language
    assert language is not None
    source = _source(run, language)
    start = None if language.start is None else run.place(language.start)
    size = _size(run, source)
    torch.manual_seed(recipe.seed + 1)
    reader = build_reader(language, source / "dual", start, _tokenizer(run, language), size)
    steps = _pruning(run, reader)
    cache = work / CACHE if language.cache is None else run.place(language.cache)
    cache.mkdir(parents=True, exist_ok=True)
    sources = open_sources(run, reader, size, cache)
    tokens = language.bridge.tokens
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(reader.tower, device)
    views = [_scenes(reader, tokens, sources, cache, source / "dual", keep, size) for keep in steps]
    nn.Module.to(reader.tower, "cpu")
    objective = LanguageObjective(
        reader.model,
        reader.before,
        reader.bridge,
        places="locations" in language.losses,
        shown=len(OBJECT_LABELS) if "patches" in language.losses else 0,
        taught=sources.taught_width,
    ).to(device)
    schedule = language.training.schedule
    usable = sources.usable
    plan = [
        usable[[place.image for place in places]]
        for places in order(len(usable), 1, schedule.batch, schedule.steps, recipe.seed)
    ]

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((recipe.seed, 8, step))
        # Seen with pruning, where the student has learned to live with it, and without.
        view = views[-1] if rng.random() < PRUNED_SHARE else views[0]
        batch = view.batch(plan[step], rng)
        result: dict[str, Tensor] = objective(
            batch.features, batch.packed, batch.index, batch.coverage, batch.patches
        )
        return result

    named = {str(name): weight for name, weight in language.losses.items()}
    fit(objective, losses, named, schedule, work / "training", "language model")
    nn.Module.to(objective, "cpu")
    if "locations" in language.losses:
        store(reader.model, objective.table())
    save_result(run, reader, sources.learned, sources.images, source, work)
    shutil.rmtree(work / CACHE, ignore_errors=True)


def _source(run: Run, language: Language) -> Path:
    """The checkpoint directory whose dual encoder has the tower."""
    student = run.done("student")
    if student is not None:
        return student
    if run.recipe.student is not None:
        raise DistillationError(
            f"the language model reads the tower of the student, and {run.out} has none yet; make "
            "that part first, or run the recipe without --only"
        )
    if language.start is None:
        raise DistillationError(
            "the recipe has a language model and no vision tower for it: give `student`, or "
            "`start` in `language`"
        )
    start = run.place(language.start)
    if not (start / "dual").is_dir() or not (start / "vlm").is_dir():
        raise DistillationError(
            f"{start} is no checkpoint directory with dual/ and vlm/, as `language.start` must be"
        )
    return start


def _size(run: Run, source: Path) -> tuple[int, int]:
    if run.recipe.student is not None:
        return run.recipe.student.size
    geometry = read_yaml(source / "bundle.yaml").get("geometry") or {}
    if not {"width", "height"} <= geometry.keys():
        raise DistillationError(
            f"{source / 'bundle.yaml'} names no width and height of the tower's images below "
            "`geometry`; set them"
        )
    return geometry["width"], geometry["height"]


def _tokenizer(run: Run, language: Language) -> Path | None:
    """Directory of the tokenizer; None: the road world's, or that of `start`."""
    if language.tokenizer == "road-world" or language.start is not None:
        return None
    path = language.tokenizer
    if path == "teacher":
        teacher = run.recipe.teacher
        if teacher is None or not isinstance(teacher.language, CheckpointLanguage):
            raise DistillationError(
                "tokenizer: teacher is that of the teacher's language model, but the recipe's "
                "teacher has no checkpoint of one; set tokenizer: road-world, or a folder"
            )
        path = teacher.language.path
    return language_folder(place(run.home, path))[0]


def _pruning(run: Run, reader: Reader) -> list[tuple[KeepStep, ...]]:
    """The schedules of pruning that the tower is seen with, none first."""
    student, language = run.recipe.student, run.recipe.language
    assert language is not None
    keep = language.keep
    if keep is None:
        keep = "" if student is None else student.keep
    if not keep:
        return [()]
    if language.bridge.needs_grid:
        raise DistillationError(
            f"a bridge of kind {language.bridge.kind} reads the whole grid, but tokens are pruned "
            f"(keep: {keep}); choose mlp or q-former, or leave `keep` out"
        )
    if reader.family.vision.name != "siglip":
        raise DistillationError(
            "a language model is trained with pruning for SigLIP towers only; leave `keep` of the "
            'student out, or set `keep: ""` in `language`'
        )
    layers = len(reader.tower.encoder.layers)
    return [(), parse_schedule(keep, layers, reader.grid[0] * reader.grid[1])]


def _scenes(
    reader: Reader,
    tokens: int | None,
    sources: Sources,
    cache: Path,
    dual: Path,
    keep: Sequence[KeepStep],
    size: tuple[int, int],
) -> FeatureScenes:
    """Scenes beside their features, which are computed once for each tower and pruning."""
    weights = [file_sha256(file) for file in weight_files(dual)]
    key = hashlib.sha256(repr((weights, size, keep, sources.seen)).encode()).hexdigest()[:16]
    path = cache / f"features-{key}.npy"
    features = cache_features(
        reader.tower, sources.pictures(), sources.count, path, keep, scaling=reader.scaling
    )
    return FeatureScenes(
        features,
        sources.known,
        sources.dialogues,
        prefix=(tokens or features.shape[1]) + len(reader.before),
        places=read_places(path),
    )
