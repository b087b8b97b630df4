# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes as image files, to calibrate and to validate with."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.progress import track

from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene

QUALITY = 95
FIRST_SEED = 5_000_000
"""Scenes from here on were kept out of the training."""


def write_images(folder: Path, count: int, size: tuple[int, int], seed: int = FIRST_SEED) -> None:
    """Render scenes into `<folder>/<seed>.jpg`; files that are there stay as they are.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in track(range(seed, seed + count), "Rendering scenes", transient=True):
        path = folder / f"{number}.jpg"
        if not path.exists():
            rendered = render(sample_scene(number), 0.0, *size)
            Image.fromarray(rendered.image).save(path, quality=QUALITY)
