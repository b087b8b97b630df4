# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images beside the features of the tower and what is known of them: batches to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class Known:
    """What is known of scenes, by their numbers; of its kinds each knows something."""

    room = 0
    """Tokens that what it says of a scene may take after the image."""

    def says(self, scene: int) -> bool:
        """Whether there is anything to be learned of a scene."""
        return True

    def segments(self, scene: int, rng: np.random.Generator) -> list[Segment]:
        """Questions and answers, drawn for one step."""
        return []

    def coverage(self, scenes: NDArray[np.int64]) -> Tensor | None:
        """[B, cells, labels], percent of each patch that shows a label."""
        return None

    def patches(self, scenes: NDArray[np.int64]) -> Tensor | None:
        """[B, cells, W], a teacher's embeddings of the patches."""
        return None


class WorldTruth(Known):
    """What the road world knows of the scenes of shards."""

    def __init__(self, shards: Sequence[Shard], dialogues: Dialogues) -> None:
        """Number the scenes of the concatenated shards.

        Args:
            shards: the scenes.
            dialogues: how they are worded.
        """
        self._places = [(s, i) for s in shards for i in range(len(s.labels))]
        self._dialogues, self.room = dialogues, dialogues.length

    def segments(self, scene: int, rng: np.random.Generator) -> list[Segment]:
        """As `Dialogues.scene` draws them."""
        shard, place = self._places[scene]
        return self._dialogues.scene(shard, place, rng)

    def coverage(self, scenes: NDArray[np.int64]) -> Tensor:
        """Counted when they were rendered."""
        found = np.stack([s.coverage[i] for s, i in (self._places[k] for k in scenes)])
        return torch.from_numpy(found).float()


class FeatureScenes:
    """The cached features of scenes beside what is known of them."""

    def __init__(
        self,
        features: NDArray[np.float16],
        known: Sequence[Known],
        dialogues: Dialogues,
        *,
        prefix: int,
        places: NDArray[np.int16] | None = None,
    ) -> None:
        """Pair `features[i]` with what is known of scene i.

        Args:
            features: [N, tokens, D].
            known: of the scenes.
            dialogues: packs what is said of them.
            prefix: tokens of the decoder before the dialogues: those of an image, and others.
            places: [N, tokens], where tokens are missing.
        """
        self._features, self._index, self._dialogues = features, places, dialogues
        self._known, self._prefix = tuple(known), prefix

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._features)

    def batch(self, scenes: NDArray[np.int64], rng: np.random.Generator) -> LanguageBatch:
        """Features, packed dialogues and what the patches show."""
        said = [[each for known in self._known for each in known.segments(i, rng)] for i in scenes]
        coverage = _first(known.coverage(scenes) for known in self._known)
        patches = _first(known.patches(scenes) for known in self._known)
        index = None
        if self._index is not None:
            index = torch.from_numpy(self._index[scenes].astype(np.int64))
            patches = None if patches is None else _at(patches, index)
            if coverage is not None:
                coverage = _at(coverage, index)
                # What a fused token shows is not known.
                coverage[index < 0] = 1
        return LanguageBatch(
            torch.from_numpy(self._features[scenes]).float(),
            self._dialogues.pack(said, self._prefix),
            index,
            coverage,
            patches,
        )


def _first(found: Iterable[Tensor | None]) -> Tensor | None:
    return next((each for each in found if each is not None), None)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Those [B, tokens, W] of values [B, cells, W] at places [B, tokens]; -1 is any."""
    places = index.clamp(min=0)[:, :, None].expand(-1, -1, values.shape[2])
    return values.gather(1, places)
