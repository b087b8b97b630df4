# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a student is before it learns: random, cut from its teacher, or another checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)

from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.files import copy_checkpoint
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.deploy.checkpoints.tokenizers.load import load_tokenizer
from vlm_perception.training.distillation.learned import read_learned
from vlm_perception.training.distillation.recipe import (
    CheckpointStudent,
    ConfigStudent,
    CutStudent,
    DistillationError,
    Recipe,
    Student,
)
from vlm_perception.training.distillation.student.cut import cut
from vlm_perception.training.processors import image_processor, save_processor
from vlm_perception.training.roadworld_words import build_clip_tokenizer, build_tokenizer

# Models of transformers carry no types.
Model = Any
_LOG_SCALE, _BIAS = 2.3026, -3.0
"""A third of the labels hold in an image, far more than one pair in a batch."""


def begin(recipe: Recipe, home: Path, folder: Path, examples: Callable[[], Tensor]) -> None:
    """Write the student's first checkpoint.

    Args:
        recipe: has a student.
        home: what paths in it are relative to.
        folder: for the checkpoint; replaced.
        examples: gives images as the student sees them, uint8 [N, H, W, 3].

    Raises:
        DistillationError: its configuration cannot be used.
        ExportError: a checkpoint that it begins with cannot be used.
    """
    assert recipe.student is not None
    start = recipe.student.start
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(recipe.seed)
    if isinstance(start, CheckpointStudent):
        source = dual_folder(place(home, start.path))
        copy_checkpoint(source, folder)
        _note_learned(source, folder)
    elif isinstance(start, CutStudent):
        source = teacher_folder(recipe, home)
        copy_checkpoint(source, folder, weights=False)
        _note_learned(source, folder)
        cut(DualReader(source), source, start, examples()).save_pretrained(folder)
    else:
        _from_config(recipe, recipe.student, start, home, folder)


def _note_learned(source: Path, folder: Path) -> None:
    """Carry along what the checkpoint has learned from, whose file may be beside its folder."""
    if learned := read_learned(source):
        learned.write(folder)


def inherits(student: Student) -> bool:
    """Whether the student's tower knows something when it begins."""
    return not isinstance(student.start, ConfigStudent)


def place(home: Path, text: str) -> str:
    """A path of a recipe, or a name on the hub."""
    path = home / Path(text).expanduser()
    return str(path) if path.exists() else text


def teacher_folder(recipe: Recipe, home: Path) -> Path:
    """The folder of the teacher's dual encoder.

    Raises:
        DistillationError: there is none.
    """
    if recipe.teacher is None or recipe.teacher.encoder is None:
        raise DistillationError(
            "the recipe takes something of the teacher's dual encoder, but names none; name it in "
            "`teacher.encoder`"
        )
    return dual_folder(place(home, recipe.teacher.encoder))


def _from_config(
    recipe: Recipe, student: Student, start: ConfigStudent, home: Path, folder: Path
) -> None:
    tokenizer = _tokenizer(recipe, start, home)
    ids: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = _model(start.vision, {**start.text, **ids})
    model.save_pretrained(folder)
    if start.tokenizer == "road-world" and not _is_clip(start):
        length = int(model.config.text_config.max_position_embeddings)
        save_processor(tokenizer, student.size, length, folder)
    else:
        of_family = CLIPProcessor if _is_clip(start) else SiglipProcessor
        of_family(image_processor(student.size), tokenizer).save_pretrained(folder)


def _tokenizer(recipe: Recipe, start: ConfigStudent, home: Path) -> Model:
    if start.tokenizer == "road-world":
        return build_clip_tokenizer() if _is_clip(start) else build_tokenizer()
    if start.tokenizer == "teacher":
        reader = DualReader(teacher_folder(recipe, home))
        return reader.tokenizer
    folder = dual_folder(place(home, start.tokenizer))
    return load_tokenizer(folder, DualReader(folder).model)


def _is_clip(start: ConfigStudent) -> bool:
    return start.text.get("model_type") == "clip_text_model"


def _model(vision: Mapping[str, Any], text: Mapping[str, Any]) -> Model:
    kinds: dict[Any, tuple[Any, Any]] = {
        ("siglip_vision_model", "siglip_text_model"): (SiglipConfig, SiglipModel),
        ("clip_vision_model", "clip_text_model"): (CLIPConfig, CLIPModel),
    }
    kind = vision.get("model_type"), text.get("model_type")
    if kind not in kinds:
        known = "; ".join(" and ".join(each) for each in kinds)
        raise DistillationError(
            f"a student's towers cannot be {kind[0]} and {kind[1]}; choose {known}"
        )
    config_class, model_class = kinds[kind]
    try:
        config = config_class(vision_config=dict(vision), text_config=dict(text))
        if str(kind[0]).startswith("clip"):
            config.projection_dim = text.get("projection_dim", config.projection_dim)
        model: Any = model_class(config)
    # What transformers and torch raise for sizes that do not fit each other.
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise DistillationError(
            f"transformers makes no model of the student's configuration: {error}"
        ) from error
    with torch.no_grad():
        model.logit_scale.fill_(_LOG_SCALE)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(_BIAS)
    return model
