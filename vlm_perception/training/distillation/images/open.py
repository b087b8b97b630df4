# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Opens the images of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm_perception.training.distillation.examples import Images
from vlm_perception.training.distillation.images.files import FolderOfImages, SplitOfImages
from vlm_perception.training.distillation.images.road_world import RoadWorld
from vlm_perception.training.distillation.recipe import (
    FinalSetImages,
    FolderImages,
    RoadWorldImages,
)

CACHE = "scenes"


def open_images(
    spec: RoadWorldImages | FinalSetImages | FolderImages,
    home: Path,
    languages: Sequence[str],
    out: Path,
) -> Images:
    """Open a source of images.

    Args:
        spec: as the recipe has it.
        home: folder of the recipe.
        languages: of captions that are wanted.
        out: folder of the run; it keeps the scenes of the road world.

    Raises:
        VlmPerceptionError: there are none, or they cannot be listed.
    """
    if isinstance(spec, RoadWorldImages):
        return RoadWorld(spec, (home / spec.cache) if spec.cache else out / CACHE, home)
    path = home / Path(spec.path).expanduser()
    if isinstance(spec, FinalSetImages):
        return SplitOfImages(path, spec.split, languages)
    return FolderOfImages(path, languages, out)
