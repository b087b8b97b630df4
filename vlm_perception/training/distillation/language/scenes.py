# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes of the road world beside the features of the tower: batches to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlm_perception.datasets.roadworld.files.shards import Shard
from vlm_perception.training.distillation.language.dialogues import Dialogues, Packed, Segment


@dataclass(frozen=True)
class LanguageBatch:
    """What the objective takes."""

    features: Tensor
    """[B, tokens, D]."""
    packed: Packed
    index: Tensor | None = None
    """[B, tokens], places of the features in the grid where some are missing."""
    coverage: Tensor | None = None
    """[B, tokens, labels], percent of each patch that shows a label."""
    patches: Tensor | None = None
    """[B, tokens, W], a teacher's embeddings of the patches."""


class FeatureScenes:
    """Shards beside the cached features of their scenes."""

    def __init__(
        self,
        shards: Sequence[Shard],
        features: NDArray[np.float16],
        dialogues: Dialogues,
        *,
        prefix: int,
        places: NDArray[np.int16] | None = None,
    ) -> None:
        """Pair scene i of the concatenated shards with `features[i]`.

        Args:
            shards: the scenes.
            features: [N, tokens, D].
            dialogues: how they are worded.
            prefix: tokens of the decoder before the dialogues: those of an image, and others.
            places: [N, tokens], where tokens are missing.
        """
        self._features, self._index, self._dialogues = features, places, dialogues
        self._places = [(s, i) for s in shards for i in range(len(s.labels))]
        self._prefix = prefix

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._places)

    def _scene(self, index: int, rng: np.random.Generator) -> list[Segment]:
        shard, place = self._places[index]
        return self._dialogues.scene(shard, place, rng)

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> LanguageBatch:
        """Features, packed dialogues and what the patches show."""
        scenes = [self._scene(i, rng) for i in indices]
        features = torch.from_numpy(np.stack([self._features[i] for i in indices])).float()
        coverage = np.stack([s.coverage[i] for s, i in (self._places[k] for k in indices)])
        index = None
        if self._index is not None:
            index = torch.from_numpy(np.stack([self._index[i] for i in indices]).astype(np.int64))
            at = index.clamp(min=0).numpy()[:, :, None]
            coverage = np.take_along_axis(coverage, at, axis=1)
            # What a fused token shows is not known.
            coverage[index.numpy() < 0] = 1
        return LanguageBatch(
            features,
            self._dialogues.pack(scenes, self._prefix),
            index,
            torch.from_numpy(coverage).float(),
        )
