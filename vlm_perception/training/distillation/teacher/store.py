# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The stored outputs of a teacher: what is in the folder, and how it is read.

Stored once and read in every epoch of every student (Vasu et al., MobileCLIP,
https://arxiv.org/abs/2311.17049, section 3.1). Each shard is a folder that is whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.training.distillation.examples import View
from vlm_perception.training.distillation.recipe import DistillationError

MANIFEST, REFERENCE = "teacher.json", "store.json"
WORDS = "language"
"""Folder of captions and answers."""
LABEL_TEXTS = "label_texts.npy"
POOLED, PATCHES, LABEL_IDS, PROBABILITIES = (
    f"{name}.npy" for name in ("pooled", "patches", "label_ids", "label_probabilities")
)
VIEWS = "views.json"
IMAGES_PER_SHARD = 500


class Manifest(BaseModel):
    """What a store holds, and what it was made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    images: str
    """Digest of them."""
    count: int
    teacher: str
    """Digest of its dual encoder."""
    views: dict[str, object]
    """As the recipe has them, and the seed that they are drawn by."""
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    top_labels: int
    width: int
    grid: tuple[int, int] | None
    """Columns and rows of patches; None: none are stored."""
    score: str
    scale: float
    bias: float


@dataclass(frozen=True)
class TaughtBatch:
    """What the teacher said of some views."""

    pooled: NDArray[np.float32]
    """[B, D], of length 1."""
    patches: NDArray[np.float32] | None
    """[B, rows, columns, D], of length 1."""
    label_ids: NDArray[np.int64]
    """[B, K]: the likeliest labels."""
    label_probabilities: NDArray[np.float32]
    """[B, K]."""


@dataclass(frozen=True)
class _Shard:
    pooled: NDArray[np.float16]
    patches: NDArray[np.float16] | None
    label_ids: NDArray[np.int16]
    probabilities: NDArray[np.float16]
    views: list[list[View]]


class Taught:
    """A complete store."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            DistillationError: it is damaged, or not complete.
        """
        self.folder = folder
        manifest = read_manifest(folder)
        if manifest is None:
            raise DistillationError(f"{folder} holds no outputs of a teacher")
        self.manifest = manifest
        missing = [
            each for each in shards(manifest.count) if not shard_folder(folder, each).exists()
        ]
        if missing:
            raise DistillationError(
                f"{folder} is not complete: {len(missing)} shards are missing; `vlm-perception "
                "distil` with the same recipe goes on"
            )
        self.images_digest, self.labels = manifest.images, manifest.labels
        self.width, self.grid = manifest.width, manifest.grid
        self.scale, self.bias, self.score = manifest.scale, manifest.bias, manifest.score
        self.label_texts: NDArray[np.float32] = np.load(folder / LABEL_TEXTS)

    @classmethod
    def of_part(cls, part: Path) -> Taught:
        """The store that the finished part `teacher` of a run leads to."""
        return cls(store_of(part))

    @property
    def has_patches(self) -> bool:
        """Whether the embeddings of patches are stored."""
        return self.grid is not None

    def views(self, index: int) -> Sequence[View]:
        """The views of an image that the teacher has seen."""
        number, place = divmod(index, IMAGES_PER_SHARD)
        return _opened(shard_folder(self.folder, number), self.has_patches).views[place]

    def batch(self, images: Sequence[int], views: Sequence[int]) -> TaughtBatch:
        """What it said of a view of each image.

        Args:
            images: their numbers.
            views: the number of the view of each.
        """
        rows = [self._row(image, view) for image, view in zip(images, views, strict=True)]
        return TaughtBatch(
            np.stack([shard.pooled[row] for shard, row in rows]).astype(np.float32),
            np.stack([shard.patches[row] for shard, row in rows]).astype(np.float32)  # type: ignore[index]
            if self.has_patches
            else None,
            np.stack([shard.label_ids[row] for shard, row in rows]).astype(np.int64),
            np.stack([shard.probabilities[row] for shard, row in rows]).astype(np.float32),
        )

    def _row(self, image: int, view: int) -> tuple[_Shard, int]:
        number, place = divmod(image, IMAGES_PER_SHARD)
        shard = _opened(shard_folder(self.folder, number), self.has_patches)
        return shard, place * len(shard.views[place]) + view


def store_of(part: Path) -> Path:
    """The folder of the store that the finished part `teacher` of a run leads to."""
    return Path(json.loads((part / REFERENCE).read_text())["store"])


def read_manifest(folder: Path) -> Manifest | None:
    """What a store says of itself; None: there is none.

    Raises:
        DistillationError: it is damaged.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = describe_errors(error) if isinstance(error, ValidationError) else error
        raise DistillationError(f"{folder / MANIFEST} cannot be used: {why}") from error


def shards(count: int) -> range:
    """The numbers of the shards of so many images."""
    return range(-(-count // IMAGES_PER_SHARD))


def shard_folder(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"{number:06d}"


@lru_cache(4096)
def _opened(folder: Path, patches: bool) -> _Shard:
    stored = {
        name: np.load(folder / name, mmap_mode="r")
        for name in (POOLED, LABEL_IDS, PROBABILITIES, *([PATCHES] if patches else []))
    }
    views = json.loads((folder / VIEWS).read_text())
    return _Shard(
        stored[POOLED],
        stored.get(PATCHES),
        stored[LABEL_IDS],
        stored[PROBABILITIES],
        [[View(**each) for each in some] for some in views],
    )
