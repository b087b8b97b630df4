# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Goes on training a dual encoder on the captions of a curated set.

The loss is the one that the checkpoint was trained with: of each pair by a sigmoid (Zhai et al.,
Sigmoid Loss for Language Image Pre-Training, 2023) or of all pairs of a batch by a softmax (Radford
et al., Learning Transferable Visual Models From Natural Language Supervision, 2021). Pairs with the
same text match each other, too: a set has many of them, and none is wrong.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vlm_perception.bundle.files import file_sha256
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.final_set import FinalSetError, FinalSplit, find_final
from vlm_perception.datasets.shuffled import Shuffled
from vlm_perception.deploy.checkpoints.families import DualFamily
from vlm_perception.deploy.checkpoints.files import weight_files
from vlm_perception.deploy.checkpoints.gather import dual_folder
from vlm_perception.deploy.checkpoints.image_processor import load_any_processor
from vlm_perception.deploy.checkpoints.load import load_dual
from vlm_perception.deploy.checkpoints.tokenizers.load import load_tokenizer, name_end_token
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.outputs.own import own_folder
from vlm_perception.training.loop import Schedule, fit

VERB = "train captions"
CHECKPOINT, WORK, DUAL = "checkpoint", "work", "dual"
RESULTS = (f"{CHECKPOINT}/*", f"{CHECKPOINT}/*/*")
BESIDE = ("bundle.yaml", "MODEL_CARD.md", "vlm")
"""What is carried along from the checkpoint directory that the dual encoder is part of. The
language model keeps the vision tower that it was trained with; a temporal module would not fit."""
TRAIN = "train"
LARGEST_SCALE = 100.0
"""Of the cosines, as in CLIP's training."""
LOSS_WEIGHTS = {
    "sigmoid": {"matching": 1.0, "others": 1.0},
    "softmax": {"image_to_text": 0.5, "text_to_image": 0.5},
}

# Modules, processors and tokenizers of transformers carry no types.
Model = Any


@dataclass(frozen=True)
class Recipe:
    """How long, how fast, and in what order."""

    seed: int = 0
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=1000, batch=256, peak_rate=1e-5)
    )


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
        FinalSetError: the set cannot be used, or has no captions.
        VlmPerceptionError: an interrupted run in `out` has begun from something else.
        OutputError: `out` is another's, or contains what is read.
    """
    folder = dual_folder(checkpoint)
    split = _split(data)
    results = ResultsFolder(out, VERB, RESULTS, [folder, split.folder])
    with results, own_folder(out / WORK, VERB) as work:
        if results.left_over:
            results.clear()
        objective = CaptionObjective(folder, split, recipe)
        weights = LOSS_WEIGHTS[objective.family.text.score]
        fit(objective, objective.losses, weights, recipe.schedule, work, "dual encoder")
        _save(objective.model, folder, results.work / CHECKPOINT / DUAL)
        _carry_along(folder, results.work / CHECKPOINT)
        results.publish()
    return out / CHECKPOINT


def _split(data: Path) -> FinalSplit:
    found = find_final(data, TRAIN)
    if found is None:
        raise FinalSetError(f"{data} is no curated set; `vlm-perception curate init` begins one")
    split = FinalSplit(*found)
    if not sum(shard.captions for shard in split.shards):
        raise FinalSetError(
            f"the split {split.split} of {split.folder} has no captions; name a captioner in the "
            "set's recipe, or sources with captions"
        )
    return split


class CaptionObjective(nn.Module):
    """The dual encoder with its loss on batches of the set; its state has the place in the set."""

    def __init__(self, folder: Path, split: FinalSplit, recipe: Recipe) -> None:
        """Load the checkpoint, and stand at the beginning of the set.

        Raises:
            ExportError: the checkpoint cannot be used.
        """
        super().__init__()
        self.family: DualFamily
        self.family, self.model = load_dual(folder)
        self._processor = load_any_processor(folder)
        self._tokenizer = load_tokenizer(folder, self.model)
        name_end_token(self.model, self._tokenizer)
        self._length = int(self.model.config.text_config.max_position_embeddings)
        self._split, self._recipe = split, recipe
        self._start = _digest(folder)
        self._images = Shuffled(split, seed=recipe.seed)
        self.model.requires_grad_(True).train()
        self.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def get_extra_state(self) -> dict[str, Any]:
        """What training began from, and where it is in the set."""
        return {"start": self._start, "images": self._images.state()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on at a place.

        Raises:
            VlmPerceptionError: the run began from another checkpoint, or is on another set.
        """
        if state["start"] != self._start:
            raise VlmPerceptionError(
                "the interrupted run has begun from another checkpoint; give another --out"
            )
        self._images = Shuffled(self._split, seed=self._recipe.seed, state=state["images"])

    def losses(self, step: int) -> dict[str, Tensor]:
        """The losses of the next batch by name, each a scalar in FP32."""
        torch.manual_seed(self._recipe.seed * 1_000_003 + step)
        pixels, texts = self._batch()
        device = self.model.logit_scale.device
        ids = self._ids(texts).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = self.model.get_image_features(**{k: v.to(device) for k, v in pixels.items()})
            read = self.model.get_text_features(input_ids=ids)
        images, captions = (
            F.normalize(found.pooler_output.float(), dim=-1) for found in (seen, read)
        )
        same = torch.tensor([[a == b for b in texts] for a in texts], device=device)
        cosines = images @ captions.T
        scale = self.model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        if self.family.text.score == "softmax":
            return softmax_losses(cosines * scale, same)
        return sigmoid_losses(cosines * scale + self.model.logit_bias, same)

    def _batch(self) -> tuple[Mapping[str, Tensor], list[str]]:
        """As the checkpoint's processor gives them, images, and a caption of each by chance."""
        images: list[Image.Image] = []
        texts: list[str] = []
        while len(images) < self._recipe.schedule.batch:
            image = next(self._images)
            if image.captions:
                place = self._images.state()
                chance = random.Random(f"{self._recipe.seed} {place['epoch']} {image.key}")
                texts.append(chance.choice(image.captions).text)
                images.append(Image.fromarray(image.pixels()))
        pixels: Mapping[str, Tensor] = self._processor(images=images, return_tensors="pt")
        return pixels, texts

    def _ids(self, texts: Sequence[str]) -> Tensor:
        ids: Tensor = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._length,
            split_special_tokens=True,
            return_tensors="pt",
        )["input_ids"]
        return ids


def sigmoid_losses(logits: Tensor, same: Tensor) -> dict[str, Tensor]:
    """SigLIP's loss, apart for pairs that match and for the others.

    Args:
        logits: [images, captions].
        same: bool [images, captions], which pairs match.
    """
    each = -F.logsigmoid(torch.where(same, logits, -logits))
    count = len(logits)
    return {"matching": each[same].sum() / count, "others": each[~same].sum() / count}


def softmax_losses(logits: Tensor, same: Tensor) -> dict[str, Tensor]:
    """CLIP's loss, apart for both directions; several matches share the probability.

    Args:
        logits: [images, captions].
        same: bool [images, captions], which pairs match; each image and caption has one.
    """
    target = same.float() / same.sum(dim=1, keepdim=True)
    return {
        "image_to_text": F.cross_entropy(logits, target),
        "text_to_image": F.cross_entropy(logits.T, target),
    }


def _digest(folder: Path) -> str:
    lines = [f"{file.name} {file_sha256(file)}\n" for file in sorted(weight_files(folder))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
    weights = {file.name for file in weight_files(source)}
    place.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name not in weights and ".safetensors" not in file.name:
            shutil.copy(file, place)
    nn.Module.to(model, "cpu")
    model.save_pretrained(place)
