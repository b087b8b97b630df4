# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `language` of a run: a language model learns to read the finished vision tower."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from vlm_perception.bundle.files import file_sha256
from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.datasets.roadworld.files.shards import (
    SCENES_PER_SHARD,
    Shard,
    ShardSpec,
    open_shard,
    render_shards,
)
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT, QUESTIONS
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS
from vlm_perception.deploy.checkpoints.bridge import save_bridge
from vlm_perception.deploy.checkpoints.files import weight_files
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.training.distillation.images.road_world import learned, parts
from vlm_perception.training.distillation.language.dialogues import (
    LOSSES,
    Dialogues,
    balancing_weights,
)
from vlm_perception.training.distillation.language.features import (
    cache_features,
    chunks_of,
    count_chunks,
    read_places,
)
from vlm_perception.training.distillation.language.model import Reader, build_reader
from vlm_perception.training.distillation.language.objective import LanguageObjective
from vlm_perception.training.distillation.language.scenes import FeatureScenes
from vlm_perception.training.distillation.learned import Learned, read_learned
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    Language,
    RoadWorldImages,
)
from vlm_perception.training.distillation.student.batches import order
from vlm_perception.training.locations import FORMAT, store
from vlm_perception.training.loop import fit
from vlm_perception.training.processors import chat_template, save_reader_processor
from vlm_perception.training.student import INPUT_SIZE
from vlm_perception.training.tower import PRUNED_SHARE

NAME = "language"
LONGEST_ANSWER = 80
"""Tokens: transformers would end a caption after 20."""
_LEFT_OUT = ("vlm", "training", "training.json", "*.pt", "log.jsonl")
"""What is beside a student's dual encoder and not the language model's."""


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
    images = language.images or recipe.images
    if not isinstance(images, RoadWorldImages):
        raise DistillationError(
            f"the losses of `language` are those of the road world's truth, which images of kind "
            f"{images.kind} have not; choose road-world"
        )
    cache = work / "cache" if language.cache is None else run.place(language.cache)
    cache.mkdir(parents=True, exist_ok=True)
    shards = road_world_shards(images, size, reader.grid, cache)
    steps = _pruning(run, reader)
    views = [_scenes(reader, language, shards, cache, source / "dual", k, size) for k in steps]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = LanguageObjective(
        reader.model,
        reader.before,
        reader.bridge,
        places="locations" in language.losses,
        shown=len(OBJECT_LABELS) if "patches" in language.losses else 0,
    ).to(device)
    schedule = language.training.schedule
    plan = [
        np.array([place.image for place in places])
        for places in order(len(views[0]), 1, schedule.batch, schedule.steps, recipe.seed)
    ]

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((recipe.seed, 8, step))
        # Seen with pruning, where the student has learned to live with it, and without.
        view = views[-1] if rng.random() < PRUNED_SHARE else views[0]
        batch = view.batch(plan[step], rng)
        result: dict[str, Tensor] = objective(
            batch.features, batch.packed, batch.index, batch.coverage
        )
        return result

    named = {str(name): weight for name, weight in language.losses.items()}
    fit(objective, losses, named, schedule, work / "training", "language model")
    nn.Module.to(objective, "cpu")
    if "locations" in language.losses:
        store(reader.model, objective.table())
    _save(reader, language, source, work)
    (learned(images) | (read_learned(source / "dual") or Learned())).write(work)


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
    if language.tokenizer != "teacher":
        return run.place(language.tokenizer)
    teacher = run.recipe.teacher
    if teacher is None or teacher.language is None:
        raise DistillationError(
            "tokenizer: teacher is that of the teacher's language model, but the recipe's teacher "
            "has no checkpoint of one; set tokenizer: road-world, or a folder"
        )
    return run.place(teacher.language.path)


def road_world_shards(
    images: RoadWorldImages, size: tuple[int, int], grid: tuple[int, int], cache: Path
) -> list[Shard]:
    """Scenes of the road world, rendered where they are not in `cache` yet."""
    specs = [
        ShardSpec(first, count, small, grid, images.appearance)
        for first, count, small in parts(images, SCENES_PER_SHARD)
    ]
    name = "shards" if size == INPUT_SIZE else f"shards-{size[0]}x{size[1]}"
    folder = cache / name
    missing = [spec for spec in specs if not (folder / spec.name).is_dir()]
    if missing:
        rendered = render_shards(missing, folder, partial(_shrink, size=size), os.cpu_count() or 1)
        for _ in track(rendered, "Rendering scenes", total=len(missing)):
            pass
    return [open_shard(folder / spec.name) for spec in specs]


def _shrink(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


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
    language: Language,
    shards: Sequence[Shard],
    cache: Path,
    dual: Path,
    keep: Sequence[KeepStep],
    size: tuple[int, int],
) -> FeatureScenes:
    """Scenes beside their features, which are computed once for each tower and pruning."""
    weights = [file_sha256(file) for file in weight_files(dual)]
    seen = [(len(shard.labels), str(shard.truths[0])) for shard in shards]
    key = hashlib.sha256(repr((weights, size, keep, seen)).encode()).hexdigest()[:16]
    path = cache / f"features-{key}.npy"
    features = cache_features(
        reader.tower,
        chunks_of(shards),
        path,
        keep,
        scaling=reader.scaling,
        chunks=count_chunks(shards),
    )
    groups = [number for number, name in enumerate(LOSSES) if name in language.losses]
    weights_of = balancing_weights(shards)
    dialogues = Dialogues(reader.tokenizer, weights_of, groups, reader.prompt)
    tokens = language.bridge.tokens or features.shape[1]
    return FeatureScenes(
        shards,
        features,
        dialogues,
        prefix=tokens + len(reader.before),
        places=read_places(path),
    )


def _save(reader: Reader, language: Language, source: Path, work: Path) -> None:
    """Write dual/, vlm/, bundle.yaml and the model card beside the logs."""
    shutil.copytree(source, work, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
    model, tokenizer = reader.model, reader.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.max_new_tokens = LONGEST_ANSWER
    nn.Module.half(model).save_pretrained(work / "vlm")
    nn.Module.float(model)
    template = chat_template(reader.prompt)
    save_reader_processor(source / "dual", tokenizer, reader.model, template, work / "vlm")
    spec = read_yaml(work / "bundle.yaml")
    spec["caption"] = {
        "template": reader.prompt.replace("<image>", "{image}"),
        "prompt": CAPTION_PROMPT,
    }
    spec["questions"] = [
        {"name": name, "question": question, "choices": list(choices)}
        for name, (question, choices) in QUESTIONS.items()
    ]
    spec.pop("locate", None)
    if "locations" in language.losses:
        spec["locate"] = FORMAT.name
    spec.pop("bridge", None)
    if language.bridge.tokens is not None:
        spec["bridge"] = {**language.bridge.model_dump(), "grid": list(reader.grid)}
        if language.bridge.has_weights:
            save_bridge(reader.bridge, work / "vlm")
    (work / "bundle.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    shutil.rmtree(work / "cache", ignore_errors=True)
