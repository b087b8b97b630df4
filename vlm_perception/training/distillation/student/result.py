# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a trained student as a checkpoint directory that `vlm-perception export` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.checkpoints.files import copy_checkpoint
from vlm_perception.training.distillation.examples import Images, View
from vlm_perception.training.distillation.learned import Learned, read_learned
from vlm_perception.training.distillation.recipe import ConfigStudent, Recipe
from vlm_perception.training.distillation.student.encoder import StudentEncoder
from vlm_perception.training.distillation.teacher.store import Taught
from vlm_perception.training.roadworld_words import templates

LICENCES = {"weights": "Apache-2.0", "training data": "Apache-2.0 (rendered)"}
"""Of a student that has seen nothing but the road world."""
OTHER_LICENCE = "of the images and the teacher that they come from"
CALIBRATED_ON = 1000
"""Images of the training, at most, by which the probabilities of labels are fitted."""
_BATCH = 50
CARD = """# {name}

A dual encoder of {parameters:.1f} M parameters, made by `vlm-perception distil`.

{warning}- Input: {width} x {height} pixels.
- Learned from: {images} images ({kind}); teacher: {teacher}.
- Losses: {losses}.
- Training: {steps} steps with a batch of {batch} images ({micro} at once), rate {rate:g},
  seed {seed}.
- Labels: {labels}.
- Probabilities of labels were fitted on {fitted}: `vlm-perception calibrate` fits them on a site's
  own.
- Not for: any decision about the safety of people.
"""
RENDERED = """**It knows only the road world.** It was trained from nothing on rendered streets and
has never seen a photograph. On real video what it says is a guess; it is there to try the package,
to test it and to measure it. For a robot, export a model of your own.

"""


def save_result(
    recipe: Recipe,
    encoder: StudentEncoder,
    images: Images,
    held_out: Images | None,
    taught: Taught | None,
    begun: Path,
    folder: Path,
) -> None:
    """Write dual/, bundle.yaml and the model card.

    Args:
        recipe: has a student.
        encoder: that was trained.
        images: it learned from.
        held_out: by which the probabilities of labels are fitted, where they are not those.
        taught: what its teacher said, if it had one.
        begun: the checkpoint that it was before.
        folder: takes the files.
    """
    student = recipe.student
    assert student is not None
    nn.Module.to(encoder, "cpu").train(False)
    dual = folder / "dual"
    dual.mkdir(exist_ok=True)
    copy_checkpoint(begun, dual, weights=False)
    encoder.model.save_pretrained(dual)
    labels = _labels(recipe, encoder, images, held_out, taught)
    width, height = student.size
    rendered = (
        isinstance(student.start, ConfigStudent)
        and recipe.images.kind == "road-world"
        and recipe.teacher is None
    )
    spec = {
        "name": recipe.name,
        "geometry": {"width": width, "height": height},
        "vocabulary": {"labels": labels, "templates": ["{label}", "a photo of a {label}"]},
        "licences": LICENCES if rendered else {"weights": OTHER_LICENCE},
    }
    learned = images.learned
    if not isinstance(student.start, ConfigStudent):
        learned |= read_learned(begun) or Learned()
    learned.write(folder)
    (folder / "bundle.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    teacher = recipe.teacher.encoder if recipe.teacher is not None else None
    training = student.training
    (folder / "MODEL_CARD.md").write_text(
        CARD.format(
            name=recipe.name,
            warning=RENDERED if rendered else "",
            parameters=sum(each.numel() for each in encoder.parameters()) / 1e6,
            width=width,
            height=height,
            images=len(images),
            kind=recipe.images.kind,
            teacher=teacher or "none",
            losses=", ".join(f"{name} {weight:g}" for name, weight in student.losses.items()),
            steps=training.steps,
            batch=training.batch,
            micro=training.micro_batch,
            rate=training.rate,
            seed=recipe.seed,
            fitted="images of the training itself" if held_out is None else "held-out scenes",
            labels=", ".join(each["label"] for each in labels) or "none",
        )
    )


def _labels(
    recipe: Recipe,
    encoder: StudentEncoder,
    images: Images,
    held_out: Images | None,
    taught: Taught | None,
) -> list[dict[str, Any]]:
    """The labels with their wordings, and what fits their probabilities."""
    count = min(CALIBRATED_ON, len(images)) if held_out is None else len(held_out)
    images = held_out or images
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    if recipe.images.kind == "road-world":
        names = list(LABELS)
        words = [list(templates(label)) for label in names]
        texts = [[w.format(label=n) for w in each] for n, each in zip(names, words, strict=True)]
        logits, truth = _seen(encoder, images, chosen, texts)
        return label_specs(names, words, logits, truth)
    if recipe.teacher is None or taught is None or not recipe.teacher.labels:
        return []
    names = list(recipe.teacher.labels)
    words = [list(recipe.teacher.templates) for _ in names]
    texts = [[w.format(label=n) for w in each] for n, each in zip(names, words, strict=True)]
    logits, _ = _seen(encoder, images, chosen, texts)
    said = taught.batch(chosen.tolist(), [0] * len(chosen))
    probability = np.zeros(logits.shape, np.float32)
    np.put_along_axis(probability, said.label_ids, said.label_probabilities, axis=1)
    return label_specs(names, words, logits, probability)


@torch.no_grad()
def _seen(
    encoder: StudentEncoder,
    images: Images,
    chosen: NDArray[np.int64],
    texts: Sequence[Sequence[str]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits [images, labels] of the student, and what is true of them, where it is known."""
    embedded = torch.stack([encoder.embed(words).mean(dim=0) for words in texts])
    embedded = torch.nn.functional.normalize(embedded, dim=-1)
    size, logits, truths = encoder.size, [], []
    for some in np.array_split(chosen, max(1, len(chosen) // _BATCH)):
        examples = [images.example(int(i), View(), size, (1, 1)) for i in some]
        pixels = torch.from_numpy(np.stack([each.image for each in examples]))
        pooled = encoder.see(pixels, pruned=bool(encoder.keep)).pooled.float()
        cosine = torch.nn.functional.normalize(pooled, dim=-1) @ embedded.T
        logits.append((cosine * encoder.scale + encoder.bias).numpy())
        truths += [each.truth.labels for each in examples if each.truth is not None]
    return np.concatenate(logits), np.array(truths, np.float32)


def label_specs(
    names: Sequence[str],
    words: Sequence[Sequence[str]],
    logits: NDArray[np.float32],
    probability: NDArray[np.float32],
) -> list[dict[str, Any]]:
    """Calibrate the labels, for bundle.yaml.

    Args:
        names: of the labels.
        words: templates of each.
        logits: [N, labels] of the images.
        probability: [N, labels] that each label applies: 0 or 1 where it is known.

    Returns:
        For each label its templates, and scale and bias of its probability (Platt, Probabilistic
        Outputs for Support Vector Machines, 1999).
    """
    specs = []
    for column, (name, templates_) in enumerate(zip(names, words, strict=True)):
        sure = probability[:, column]
        twice = np.concatenate([logits[:, column], logits[:, column]])[:, None]
        answer = np.repeat([1, 0], len(sure))
        weights = np.concatenate([sure, 1 - sure])
        spec: dict[str, Any] = {"label": name, "templates": list(templates_)}
        if weights[: len(sure)].sum() > 0 and weights[len(sure) :].sum() > 0:
            fit = LogisticRegression(C=1e3).fit(twice, answer, sample_weight=weights)
            spec["calibration_scale"] = round(max(float(fit.coef_[0, 0]), 0.05), 4)
            spec["calibration_bias"] = round(float(fit.intercept_[0]), 4)
        specs.append(spec)
    return specs
