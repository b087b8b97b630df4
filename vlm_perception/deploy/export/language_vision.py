# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model's own vision tower as it is exported, and the view that it gets."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.bundle.manifest import ImageSpec, TowerSpec
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.checkpoints.views import ViewFit
from vlm_perception.deploy.export.input_geometry import grid_of_processor
from vlm_perception.deploy.export.vision import read_layers
from vlm_perception.modeling.towers.trunk import LanguageTower


@dataclass(frozen=True)
class LanguageVision:
    """A language model's own tower."""

    graph: LanguageTower
    family: str
    image: ImageSpec
    """A view."""
    fit: ViewFit

    @property
    def views(self) -> int:
        """How many views of an image there are."""
        return 1 if self.fit.tiles is None else self.fit.tiles.views

    def spec(self, shape: tuple[int, ...]) -> TowerSpec:
        """The manifest's words on it, where its tokens have this shape [1, K, V]."""
        return TowerSpec(
            family=self.family,
            image=self.image,
            longest_edge=self.fit.longest_edge,
            square=self.fit.square,
            tiles=self.fit.tiles,
            tokens=shape[1],
            token_width=shape[2],
        )


def lay_out_language_vision(source: Checkpoint) -> LanguageVision | None:
    """Lay out the language model's own tower for what its own processor makes of an image.

    Returns:
        None where it has none of its own.

    Raises:
        ExportError: that processor does not make one view of one size, or the tower does not take
            it.
    """
    tower, view = source.language_tower, source.view
    if tower is None or view is None:
        return None
    fit = view.fit()
    parts, scale = source.language_vision_parts, source.language_normalisation
    columns, rows = grid_of_processor(fit.processor, parts.positions)
    patch = parts.positions.patch
    image = ImageSpec(
        width=columns * patch,
        height=rows * patch,
        patch=patch,
        columns=columns,
        rows=rows,
        mean=scale.mean,
        std=scale.std,
        # transformers' processors pad with black.
        pad=(0, 0, 0),
        processor=fit.processor,
    )
    graph = LanguageTower(
        parts,
        grid=(columns, rows),
        mean=scale.mean,
        std=scale.std,
        feature_layers=read_layers(source, tower, len(parts.blocks)),
    )
    return LanguageVision(graph, tower.name, image, fit)
