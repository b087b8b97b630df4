# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the dual encoder on shards of the road world, by its truth and its captions."""

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
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.training.distillation.losses.batch import Outputs, Part, TrueTargets
from vlm_perception.training.distillation.losses.captions import contrastive
from vlm_perception.training.distillation.losses.true import (
    true_distance,
    true_labels,
    true_patches,
    true_targets,
)
from vlm_perception.training.student import (
    ATTRIBUTE_PHRASES,
    GRID,
    TEXT_LENGTH,
    WIDTH,
    templates,
)
from vlm_perception.training.tower import PRUNED_SHARE, patch_embeddings, see


@dataclass(frozen=True)
class Batch:
    """One step's scenes."""

    images: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    true: TrueTargets
    captions: list[str]

    def to(self, device: torch.device) -> Batch:
        """The same scenes with their tensors on `device`."""
        return Batch(self.images.to(device), self.true.to(device), self.captions)


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
        metres = np.stack(distance).astype(np.float32)
        return Batch(
            (pixels * gain[:, None, None, None]).clamp_(0, 255).div_(127.5).sub_(1.0),
            true_targets(
                np.stack(labels),
                np.stack(attributes),
                np.stack(coverage),
                np.where(metres == NO_DISTANCE, np.float32(np.nan), metres / 2),
            ),
            texts,
        )


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
            known = len(LABELS) + len(ATTRIBUTE_PHRASES)
            outputs = Outputs(
                pooled=F.normalize(seen.pooled.float(), dim=-1),
                patches=patch_embeddings(self.model, placed),
                index=seen.index,
                hidden=placed.float(),
                texts={"world": text[:known], "captions": text[known:]},
                scale=self.model.logit_scale.exp(),
                bias=self.model.logit_bias,
                softmax=False,
            )
            distance = true_distance(outputs, batch.true, self.distance)
        pairs = outputs.pooled @ outputs.texts["captions"].T * outputs.scale + outputs.bias
        own = torch.eye(len(pairs), dtype=torch.bool, device=self.device)
        parts = {
            "tags": true_labels(outputs, batch.true),
            "patches": true_patches(outputs, batch.true),
            "distance": distance,
            "text": Part(contrastive(pairs, own, softmax=False), torch.ones(())),
        }
        return {name: part.total / part.weight for name, part in parts.items()}


LOSS_WEIGHTS = {"tags": 1.0, "patches": 10.0, "distance": 0.1, "text": 0.03}
