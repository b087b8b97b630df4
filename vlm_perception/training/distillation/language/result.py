# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a trained language model as a checkpoint directory that `vlm-perception export` takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from torch import nn

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.datasets.roadworld.instructions import INSTRUCTIONS
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT
from vlm_perception.deploy.checkpoints.bridge import save_bridge
from vlm_perception.training.distillation.language.model import Reader
from vlm_perception.training.distillation.learned import Learned, read_learned
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import CheckpointLanguage, Recipe
from vlm_perception.training.locations import FORMAT
from vlm_perception.training.processors import chat_template, save_reader_processor

LONGEST_ANSWER = 80
"""Tokens: transformers would end a caption after 20."""
_LEFT_OUT = ("vlm", "training", "training.json", "*.pt", "log.jsonl")
"""What is beside a student's dual encoder and not the language model's."""
CARD = """
## Language model

- Decoder of {parameters:.1f} M parameters, behind a bridge of kind {bridge}.
- Learned from: {count} images ({kind}); teacher: {teacher}.
- Losses: {losses}.
- Training: {steps} steps with a batch of {batch} images, rate {rate:g}, seed {seed}.
{knows}"""
BOXES = (
    "`detect the red car` is answered as PaliGemma answers it, with nothing where there is none."
)
WORLD_ENGLISH = (
    "the English of the road world's captions and questions. Other words can be spelled, not "
    "understood."
)


def save_result(
    run: Run, reader: Reader, learned: Learned, count: int, source: Path, work: Path
) -> None:
    """Write dual/, vlm/, bundle.yaml, training.json and the model card.

    Args:
        run: has a language model.
        reader: that was trained.
        learned: what it has learned from.
        count: of these images.
        source: the checkpoint directory with its dual encoder.
        work: takes the files.
    """
    recipe, language = run.recipe, run.recipe.language
    assert language is not None
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
    if questions := _questions(recipe):
        # Temperatures are in the probabilities that were learned.
        spec["questions"] = [
            {"name": each.name, "question": each.question, "choices": list(each.choices)}
            for each in questions
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
    folders = [source / "dual"]
    if language.start is not None:
        folders.append(run.place(language.start) / "vlm")
    for folder in folders:
        learned |= read_learned(folder) or Learned()
    learned.write(work)
    with (work / "MODEL_CARD.md").open("a") as card:
        card.write(_card(recipe, reader, count))


def _questions(recipe: Recipe) -> list[QuestionSpec]:
    """Those that have been learned; of the same name the teacher's."""
    assert recipe.language is not None
    found: dict[str, QuestionSpec] = {}
    if "answers" in recipe.language.losses:
        found |= {each.name: each for each in TYPED_QUESTIONS}
    if "taught_answers" in recipe.language.losses and recipe.teacher is not None:
        found |= {each.name: each for each in recipe.teacher.questions}
    return list(found.values())


def _card(recipe: Recipe, reader: Reader, count: int) -> str:
    language, teacher = recipe.language, recipe.teacher
    assert language is not None
    names: list[str | None] = []
    if teacher is not None:
        spoke = teacher.language
        names = [teacher.encoder]
        if spoke is not None:
            names.append(spoke.path if isinstance(spoke, CheckpointLanguage) else spoke.model)
    training = language.training
    return CARD.format(
        parameters=sum(each.numel() for each in reader.model.model.language_model.parameters())
        / 1e6,
        bridge=language.bridge.kind,
        count=count,
        kind=(language.images or recipe.images).kind,
        teacher=", ".join(dict.fromkeys(filter(None, names))) or "none",
        losses=", ".join(f"{name} {weight:g}" for name, weight in language.losses.items()),
        steps=training.steps,
        batch=training.batch,
        rate=training.rate,
        seed=recipe.seed,
        knows=_knows(recipe),
    )


def _knows(recipe: Recipe) -> str:
    """What it can be asked, a line each."""
    language = recipe.language
    assert language is not None
    lines = {"Typed questions": "; ".join(each.question for each in _questions(recipe))}
    if "instructions" in language.losses:
        lines["Instructions"] = "; ".join(each.wordings[0] for each in INSTRUCTIONS)
    if "locations" in language.losses:
        lines["Boxes"] = BOXES
    if language.decoder is not None and (language.images or recipe.images).kind == "road-world":
        lines["Languages"] = WORLD_ENGLISH
    return "".join(f"- {name}: {text}\n" for name, text in lines.items() if text)
