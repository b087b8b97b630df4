# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the dual encoder on the road world, with the truth of every patch as a second teacher.

Image-level labels alone teach a small ViT slowly; the content of each patch, read through the
pooling head's value path, is dense supervision in the very space of the text (the value path is the
one that MaskCLIP reads, Zhou et al., Extract Free Dense Labels from CLIP, 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipModel

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.datasets.roadworld.files.shards import NO_DISTANCE, Shard
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.modeling.token_pruning import take
from vlm_perception.training.student import (
    ATTRIBUTE_PHRASES,
    GRID,
    TEXT_LENGTH,
    WIDTH,
    templates,
)
from vlm_perception.training.tower import see

PRUNED_SHARE = 2 / 3
"""Of the batches, where the student is trained for token pruning."""
POSITIVE_PERCENT = 3
"""A patch counts as showing a label from this coverage on; below it, down to 1, as unknown."""


@dataclass(frozen=True)
class Batch:
    """One step's scenes."""

    images: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    labels: Tensor
    """[B, labels] in {0, 1}."""
    phrases: Tensor
    """[B, attribute phrases] in {0, 1}."""
    patches: Tensor
    """[B, patches, objects]: 1 shown, 0 not shown, -1 unknown."""
    distance: Tensor
    """[B, patches]: logarithm of metres, NaN where there is no object."""
    captions: list[str]

    def to(self, device: torch.device) -> Batch:
        """The same scenes with their tensors on `device`."""
        return Batch(
            self.images.to(device),
            self.labels.to(device),
            self.phrases.to(device),
            self.patches.to(device),
            self.distance.to(device),
            self.captions,
        )


class Scenes:
    """Shards as one sequence of scenes."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Take the shards in the order given."""
        self._shards = shards
        self._ends = np.cumsum([len(shard.labels) for shard in shards])

    def __len__(self) -> int:
        """Number of scenes."""
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[Shard, int]:
        """The shard of a scene and its place there."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self._shards[which], index - (int(self._ends[which - 1]) if which else 0)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """Read scenes, half of them mirrored, each with a gain of its own."""
        columns, rows = GRID
        images, coverage, distance, labels, attributes, texts = [], [], [], [], [], []
        for index in indices:
            shard, i = self.locate(int(index))
            mirror = slice(None, None, -1) if rng.random() < 0.5 else slice(None)
            images.append(shard.images[i][:, mirror])
            coverage.append(
                shard.coverage[i].reshape(rows, columns, -1)[:, mirror].reshape(rows * columns, -1)
            )
            distance.append(shard.distance[i].reshape(rows, columns)[:, mirror].reshape(-1))
            labels.append(shard.labels[i])
            attributes.append(shard.attributes[i])
            texts.append(shard.captions[i][int(rng.integers(len(shard.captions[i])))])
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, len(indices)).astype(np.float32))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        share = torch.from_numpy(np.stack(coverage)).to(torch.int16)
        metres = torch.from_numpy(np.stack(distance)).float()
        return Batch(
            (pixels * gain[:, None, None, None]).clamp_(0, 255).div_(127.5).sub_(1.0),
            torch.from_numpy(np.stack(labels)).float(),
            _phrase_targets(np.stack(attributes)),
            (share >= POSITIVE_PERCENT).float()
            - ((share > 0) & (share < POSITIVE_PERCENT)).float(),
            torch.where(metres == NO_DISTANCE, torch.nan, (metres / 2 + 0.5).log()),
            texts,
        )


def _phrase_targets(attributes: NDArray[np.uint8]) -> Tensor:
    names = list(QUESTIONS)
    columns = [
        attributes[:, names.index(name)] == QUESTIONS[name][1].index(choice)
        for name, choice in ATTRIBUTE_PHRASES
    ]
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def order(scenes: int, easy: int, batch: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices for each step: the easy scenes first for a tenth of the steps, then all, shuffled."""
    rng = np.random.default_rng((seed, 6))
    taught = 0
    for limit, until in ((easy, steps // 10), (scenes, steps)):
        queue: NDArray[np.int64] = np.empty(0, np.int64)
        while taught < until:
            while len(queue) < batch:
                queue = np.concatenate((queue, rng.permutation(limit)))
            yield queue[:batch]
            queue = queue[batch:]
            taught += 1


class DualObjective(nn.Module):
    """The model with its losses; the distance head is dropped after training."""

    def __init__(
        self,
        model: SiglipModel,
        tokenizer: PreTrainedTokenizerFast,
        keep: Sequence[KeepStep] = (),
    ) -> None:
        """Wrap `model`; its text tower reads ids of `tokenizer`.

        With steps of pruning in `keep` most batches are seen with it, and the rest with all
        tokens, so that the student remains good at both.
        """
        super().__init__()
        self._keep = tuple(keep)
        self.model = model
        self.distance = nn.Linear(WIDTH, 1)
        self._tokenizer = tokenizer
        # The fused attention's backward pass in bfloat16 takes half of a step on a CPU.
        model.set_attn_implementation("eager")
        self._see = torch.compile(see)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids [N, TEXT_LENGTH], padded as SigLIP's text tower expects."""
        encoded = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=TEXT_LENGTH,
            return_tensors="pt",
        )
        ids: Tensor = encoded["input_ids"]
        return ids.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.distance.weight.device

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Normalised text embeddings [N, D]."""
        return F.normalize(self.model.text_model(self.ids(texts)).pooler_output.float(), dim=-1)

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses by name, each a scalar in FP32."""
        batch = batch.to(self.device)
        names = [str(rng.choice(templates(label))).format(label=label) for label in LABELS]
        with torch.autocast(self.device.type, torch.bfloat16):
            pruned = self._keep and rng.random() < PRUNED_SHARE
            seen = self._see(self.model.vision_model, batch.images, self._keep if pruned else ())
            text = self.embed([*names, *ATTRIBUTE_PHRASES.values(), *batch.captions])
            # A fused token comes after those that have a position, and a truth, in the grid.
            placed = seen.normed[:, : seen.index.shape[1]]
            patches = patch_embeddings(self.model, placed)
            metres = self.distance(placed)[..., 0].float()
        pooled = F.normalize(seen.pooled.float(), dim=-1)
        known = len(LABELS) + len(ATTRIBUTE_PHRASES)
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        tags = pooled @ text[:known].T * scale + bias
        truth = torch.cat((batch.labels, batch.phrases), dim=1)
        dense = patches @ text[: len(OBJECT_LABELS)].T * scale + bias
        shown, log_metres = take(batch.patches, seen.index), take(batch.distance, seen.index)
        sure = shown >= 0
        here = ~log_metres.isnan()
        pairs = pooled @ text[known:].T * scale + bias
        match = 2 * torch.eye(len(pairs), device=self.device) - 1
        per_patch = F.binary_cross_entropy_with_logits(dense, shown.clamp(min=0), reduction="none")
        return {
            "tags": F.binary_cross_entropy_with_logits(tags, truth),
            "patches": (per_patch * sure).sum() / sure.sum(),
            "distance": F.smooth_l1_loss(metres[here], log_metres[here]),
            "text": -F.logsigmoid(match * pairs).sum(dim=1).mean(),
        }


def patch_embeddings(model: SiglipModel, hidden: Tensor) -> Tensor:
    """Each token through the pooling head as if it stood alone: [B, K, D], normalised."""
    head = model.vision_model.head
    attention = head.attention
    values = F.linear(
        hidden, attention.in_proj_weight[2 * WIDTH :], attention.in_proj_bias[2 * WIDTH :]
    )
    read = attention.out_proj(values)
    return F.normalize((read + head.mlp(head.layernorm(read))).float(), dim=-1)


LOSS_WEIGHTS = {"tags": 1.0, "patches": 10.0, "distance": 0.1, "text": 0.03}
