# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What embeds images and texts for the rules of a recipe: a bundle, or a checkpoint.

An embedding depends on its image or text alone, and not on what is embedded with it, nor on the
number of processes: each goes through its tower alone, in one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import VISION_GRAPH, ModelBundle
from vlm_perception.curation.recipe import (
    BundleEncoder,
    CheckpointEncoder,
    path_or_name,
)
from vlm_perception.curation.with_torch import import_with_torch
from vlm_perception.perception.embedding_checks import require_finite
from vlm_perception.perception.preprocess import Preprocessor
from vlm_perception.perception.vision.text_tower import TextTower

Images = Sequence[NDArray[np.uint8]]
"""uint8 RGB, [height, width, 3] each."""
_OPEN = 4
"""Encoders that a process keeps."""


class Encoder(Protocol):
    """Embeds images and texts into one space."""

    @property
    def digest(self) -> str:
        """Names what embeddings depend on: the bundle, or the checkpoint's files."""
        ...

    def images(self, images: Images) -> NDArray[np.float32]:
        """Embed images.

        Returns:
            [images, D], L2-normalised.

        Raises:
            FrameError: one is no image.
            EmbeddingError: the encoder gives NaN or infinity.
        """
        ...

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; those that the tower does not read whole are cut as its authors do.

        Returns:
            [texts, D], L2-normalised.

        Raises:
            TextError: one is no text.
            EmbeddingError: the encoder gives NaN or infinity.
        """
        ...

    def reads_whole(self, text: str) -> bool:
        """Whether a text is not longer than the tower reads."""
        ...


def open_encoder(spec: BundleEncoder | CheckpointEncoder, folder: Path) -> Encoder:
    """Open an encoder; a process opens it once.

    Args:
        spec: of a recipe.
        folder: that of the recipe, which paths are relative to.

    Raises:
        CurationError: torch is not installed.
        BundleError: the bundle cannot be used.
        ExportError: the checkpoint cannot be used.
    """
    return _opened(spec, folder.resolve())


@lru_cache(_OPEN)
def _opened(spec: BundleEncoder | CheckpointEncoder, folder: Path) -> Encoder:
    named = path_or_name(folder, spec.path)
    if isinstance(spec, BundleEncoder):
        return _OfBundle(ModelBundle.load(named))
    with_torch = import_with_torch(
        "vlm_perception.curation.checkpoint_encoder",
        "an encoder of kind checkpoint",
        "take an encoder of kind bundle",
    )
    encoder: Encoder = with_torch.CheckpointEncoder(named)
    return encoder


class _OfBundle:
    """The towers of a bundle, as they are on the robot."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._bundle = bundle
        self._preprocessor = Preprocessor(bundle.manifest.image)
        self._engine = bundle.engine(VISION_GRAPH)
        bundle.verify_golden({VISION_GRAPH: self._engine})

    @property
    def digest(self) -> str:
        return self._bundle.digest

    def images(self, images: Images) -> NDArray[np.float32]:
        return normalised([self._pooled(image) for image in images], "the embedding of an image")

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [self._text_tower.embed_each([text])[0] for text in texts]
        return normalised(rows, "the embedding of a text")

    def reads_whole(self, text: str) -> bool:
        return self._text_tower.reads_whole(text)

    @cached_property
    def _text_tower(self) -> TextTower:
        return TextTower.load(self._bundle)

    def _pooled(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The embedding of an image, [D], as the tower gives it."""
        fitted, _ = self._preprocessor.run(image)
        return np.asarray(self._engine.run({"image": fitted})["pooled"][0], np.float32)


def normalised(rows: Sequence[NDArray[np.float32]], what: str) -> NDArray[np.float32]:
    """Rows [D] as unit vectors [N, D].

    Raises:
        EmbeddingError: they hold NaN or infinity.
    """
    if not rows:
        return np.empty((0, 0), np.float32)
    stacked = np.stack(rows)
    require_finite(stacked, what)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True), np.float32)
