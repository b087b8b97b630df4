# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Goes on training a dual encoder on a curated set's captions, by the loss it was trained with."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.captions_file import UNKNOWN, is_in
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, captions_of, find_final
from vlm_perception.datasets.sample import Caption
from vlm_perception.datasets.shuffled import Shuffled
from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.deploy.checkpoints.files import copy_checkpoint
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.outputs.own import own_folder
from vlm_perception.training.distillation.losses.captions import (
    matches,
    sigmoid_losses,
    softmax_losses,
)
from vlm_perception.training.loop import Schedule, fit

VERB = "train captions"
CHECKPOINT, WORK, DUAL = "checkpoint", "work", "dual"
RESULTS = (f"{CHECKPOINT}/*", f"{CHECKPOINT}/*/*")
BESIDE = ("bundle.yaml", "MODEL_CARD.md", "vlm")
"""What is carried along from the checkpoint directory that the dual encoder is part of. The
language model keeps the vision tower that it was trained with; a temporal module would not fit."""
TRAIN = "train"
LARGEST_SCALE = 100.0
"""Of the cosines in CLIP's training (section 2.5); SigLIP's has no bound, and published ones are
larger."""
LOSS_WEIGHTS = {
    "sigmoid": {"matching": 1.0, "others": 1.0},
    "softmax": {"image_to_text": 0.5, "text_to_image": 0.5},
}

# Modules, processors and tokenizers of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class Recipe:
    """How long, how fast, in what order, and from which captions."""

    seed: int = 0
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=1000, batch=256, peak_rate=1e-5)
    )
    languages: tuple[str, ...] = ("en", UNKNOWN)
    """What the encoder reads, as BCP 47 writes it; captions in others are left out."""


def train(checkpoint: str, data: Path, out: Path, recipe: Recipe) -> Path:
    """Train, or go on where an earlier run stopped.

    Args:
        checkpoint: a dual encoder: a folder, or a model of the hub.
        data: a curated set, or the folder of a split of it; of a whole one `train` is meant.
        out: takes logs, states and the result.
        recipe: what is done.

    Returns:
        `out`/checkpoint, which has `dual/`, and what else is needed to export it, where the
        encoder came from a whole checkpoint directory.

    Raises:
        ExportError: the checkpoint cannot be used.
        FinalSetError: the set cannot be used, or has no captions in the languages.
        VlmPerceptionError: an interrupted run in `out` has begun from something else.
        OutputError: `out` is another's, or contains what is read.
    """
    folder = dual_folder(checkpoint)
    split = _split(data, recipe.languages)
    results = ResultsFolder(out, VERB, RESULTS, [folder, split.folder])
    with results, own_folder(out / WORK, VERB) as work:
        if results.left_over:
            results.clear()
        objective = CaptionObjective(folder, split, recipe)
        weights = LOSS_WEIGHTS[objective.family.text.score]
        fit(objective, objective.losses, weights, recipe.schedule, work, "dual encoder")
        objective.bound_scale()
        _save(objective.model, folder, results.work / CHECKPOINT / DUAL)
        _carry_along(folder, results.work / CHECKPOINT)
        results.publish()
    return out / CHECKPOINT


def _split(data: Path, languages: Sequence[str]) -> FinalSplit:
    found = find_final(data, TRAIN)
    if found is None:
        raise FinalSetError(f"{data} is no curated set; `vlm-perception curate init` begins one")
    split = FinalSplit(*found)
    if not sum(shard.captions for shard in split.shards):
        raise FinalSetError(
            f"the split {split.split} of {split.folder} has no captions; name a captioner in the "
            "set's recipe, or sources with captions"
        )
    if not any(_texts(captions_of(known.record), languages) for known in split.records()):
        raise FinalSetError(
            f"the split {split.split} of {split.folder} has no captions in "
            f"{' or '.join(languages)}; `--language` names others"
        )
    return split


def _texts(captions: Iterable[Caption], languages: Sequence[str]) -> list[str]:
    """The captions of an image that are learned from."""
    return [each.text for each in captions if is_in(each.language, languages)]


class CaptionObjective(nn.Module):
    """The dual encoder with its loss on batches of the set; its state has the place in the set."""

    def __init__(self, folder: Path, split: FinalSplit, recipe: Recipe) -> None:
        """Load the checkpoint, and stand at the beginning of the set.

        Raises:
            ExportError: the checkpoint cannot be used.
        """
        super().__init__()
        self._reader = DualReader(folder)
        self.family, self.model = self._reader.family, self._reader.model
        self._split, self._recipe = split, recipe
        self._images = Shuffled(split, seed=recipe.seed)
        self.model.requires_grad_(True).train()
        self.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def get_extra_state(self) -> dict[str, Any]:
        """What training began from, and where it is in the set."""
        return {
            "start": self._reader.digest,
            "languages": list(self._recipe.languages),
            "images": self._images.state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on at a place.

        Raises:
            VlmPerceptionError: the run began from another checkpoint, or is on another set or other
                languages.
        """
        if state["start"] != self._reader.digest:
            raise VlmPerceptionError(
                "the interrupted run has begun from another checkpoint; give another --out"
            )
        if state.get("languages") != list(self._recipe.languages):
            raise VlmPerceptionError(
                "the interrupted run learns from other languages; give another --out"
            )
        self._images = Shuffled(self._split, seed=self._recipe.seed, state=state["images"])

    def bound_scale(self) -> None:
        """Keep the scale within what the family's training allows; call it after each step."""
        if self.family.text.score == "softmax":
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=math.log(LARGEST_SCALE))

    def losses(self, step: int) -> dict[str, Tensor]:
        """The losses of the next batch by name, each a scalar in FP32."""
        torch.manual_seed(self._recipe.seed * 1_000_003 + step)
        self.bound_scale()
        pixels, texts, same = self._batch()
        device = self.model.logit_scale.device
        ids = self._reader.ids(texts).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = self.model.get_image_features(**{k: v.to(device) for k, v in pixels.items()})
            read = self.model.get_text_features(input_ids=ids)
        images, captions = (
            F.normalize(found.pooler_output.float(), dim=-1) for found in (seen, read)
        )
        same = same.to(device)
        logits = images @ captions.T * self.model.logit_scale.exp()
        if self.family.text.score == "softmax":
            return softmax_losses(logits, same)
        return sigmoid_losses(logits + self.model.logit_bias, same)

    def _batch(self) -> tuple[Mapping[str, Tensor], list[str], Tensor]:
        """Images, as the checkpoint's processor gives them, a caption of each, and `matches`."""
        images: list[Image.Image] = []
        texts: list[str] = []
        own: list[list[str]] = []
        while len(images) < self._recipe.schedule.batch:
            image = next(self._images)
            known = _texts(image.captions, self._recipe.languages)
            if known:
                place = self._images.state()
                chance = random.Random(f"{self._recipe.seed} {place['epoch']} {image.key}")
                texts.append(chance.choice(known))
                images.append(Image.fromarray(image.pixels()))
                own.append(known)
        return self._reader.pixels(images), texts, matches(own, texts)


def _carry_along(source: Path, place: Path) -> None:
    """Copy what is beside a dual encoder in a checkpoint directory."""
    if source.name != DUAL:
        return
    for name in BESIDE:
        if (source.parent / name).is_dir():
            shutil.copytree(source.parent / name, place / name)
        elif (source.parent / name).is_file():
            shutil.copy(source.parent / name, place)


def _save(model: Model, source: Path, place: Path) -> None:
    """Write the model, with the processor and the tokenizer that it came with."""
    place.mkdir(parents=True)
    copy_checkpoint(source, place, weights=False)
    nn.Module.to(model, "cpu")
    model.save_pretrained(place)
