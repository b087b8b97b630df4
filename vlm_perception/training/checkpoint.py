# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the trained student as ordinary Hugging Face checkpoints, ready for the export."""

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
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipModel,
)

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.datasets.roadworld.files.shards import Shard
from vlm_perception.datasets.roadworld.instructions import INSTRUCTIONS
from vlm_perception.datasets.roadworld.truth import CAPTION_PROMPT, QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.training.dual import DualObjective
from vlm_perception.training.locations import FORMAT, with_locations
from vlm_perception.training.processors import save_dual_processor, save_vlm_processor
from vlm_perception.training.student import INPUT_SIZE, PATCH, PROMPT, templates
from vlm_perception.training.tower import see

LONGEST_ANSWER = 80
"""Tokens: transformers would end a caption after 20."""
MODEL_CARD = """# roadworld-nano

A dual encoder (SigLIP, {dual:.1f} M parameters) and a LLaVA-style language model ({vlm:.1f} M,
sharing the vision tower) for the procedural road world of this package.

**It knows only the road world.** It was trained from nothing on rendered streets and has never seen
a photograph. On real video its tags, answers and captions are guesses; it is there to try the
package, to test it and to measure it. For a robot, export a model of your own.

- Input: {width} x {height} pixels, 16:9 without distortion, {patch} px patches.
- Labels: {labels}.
- Typed questions: {questions}.
- Instructions: {instructions}.
- Boxes: `detect the red car` is answered as PaliGemma answers it, with nothing where there is none.
- Languages: the English of the world's own captions and of these instructions. Other words can be
  spelled, not understood.
- Training: `vlm-perception train roadworld-nano`; scenes with seeds below 10,000,000.
- Examination: `vlm-perception evaluate roadworld-nano`; scenes with seeds from 20,000,000 on.
- Not for: any decision about the safety of people.
- Licence: Apache-2.0, weights and world alike.
"""


@torch.no_grad()
def calibrate(
    model: SiglipModel,
    tokenizer: PreTrainedTokenizerFast,
    shards: Sequence[Shard],
    keep: Sequence[KeepStep] = (),
) -> list[dict[str, Any]]:
    """Fit each label's probability on scenes that were not trained on (Platt scaling).

    Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    model.train(False)
    objective = DualObjective(model, tokenizer)
    prompts = [[t.format(label=label) for t in templates(label)] for label in LABELS]
    text = torch.stack([objective.embed(group).mean(dim=0) for group in prompts])
    text = torch.nn.functional.normalize(text, dim=-1)
    logits, truth = [], []
    for shard in shards:
        for first in range(0, len(shard.labels), 50):
            images = torch.from_numpy(np.array(shard.images[first : first + 50]))
            pixels = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
            pooled = see(model.vision_model, pixels, keep).pooled
            cosine = torch.nn.functional.normalize(pooled, dim=-1) @ text.T
            logits.append((cosine * model.logit_scale.exp() + model.logit_bias).numpy())
        truth.append(shard.labels)
    return label_specs(np.concatenate(logits), np.concatenate(truth))


def label_specs(logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Calibrate the labels, for bundle.yaml.

    Args:
        logits: [N, labels] of the images.
        truth: [N, labels], whether each label applies.

    Returns:
        For each label its templates, and scale and bias of its probability (Platt, 1999).
    """
    specs = []
    for column, label in enumerate(LABELS):
        fit = LogisticRegression(C=1e3).fit(logits[:, column : column + 1], truth[:, column])
        specs.append(
            {
                "label": label,
                "templates": list(templates(label)),
                "calibration_scale": round(max(float(fit.coef_[0, 0]), 0.05), 4),
                "calibration_bias": round(float(fit.intercept_[0]), 4),
            }
        )
    return specs


def save_checkpoint(
    dual: SiglipModel,
    vlm: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    labels: list[dict[str, Any]],
    directory: Path,
) -> Path:
    """Write dual/, vlm/, bundle.yaml and the model card in half precision, to a new `directory`."""
    vlm.generation_config.eos_token_id = tokenizer.eos_token_id
    vlm.generation_config.pad_token_id = tokenizer.pad_token_id
    vlm.generation_config.max_new_tokens = LONGEST_ANSWER
    for name, model in (("dual", dual), ("vlm", vlm)):
        nn.Module.half(model).save_pretrained(directory / name)
        nn.Module.float(model)
    save_dual_processor(tokenizer, directory / "dual")
    save_vlm_processor(with_locations(tokenizer), directory / "vlm")
    spec = {
        "name": "roadworld-nano",
        "geometry": {"width": INPUT_SIZE[0], "height": INPUT_SIZE[1]},
        "vocabulary": {"labels": labels, "templates": ["{label}", "a photo of a {label}"]},
        "caption": {"template": PROMPT.replace("<image>", "{image}"), "prompt": CAPTION_PROMPT},
        "locate": FORMAT.name,
        "questions": [
            {"name": name, "question": question, "choices": list(choices)}
            for name, (question, choices) in QUESTIONS.items()
        ],
        "licences": {"weights": "Apache-2.0", "training data": "Apache-2.0 (rendered)"},
    }
    (directory / "bundle.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (directory / "MODEL_CARD.md").write_text(
        MODEL_CARD.format(
            dual=dual.num_parameters() / 1e6,
            vlm=vlm.num_parameters() / 1e6,
            width=INPUT_SIZE[0],
            height=INPUT_SIZE[1],
            patch=PATCH,
            labels=", ".join(LABELS),
            questions="; ".join(question for question, _ in QUESTIONS.values()),
            instructions="; ".join(kind.wordings[0] for kind in INSTRUCTIONS),
        )
    )
    return directory
