# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a frozen image tower says of a source's images: computed once, kept in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from vlm_perception.deploy.checkpoints.dual_reader import DualReader
from vlm_perception.training.adaptation.sources import LearningError, Source

PART = 128
"""Images of a part, which an interrupted run begins again."""
FEWEST = 2
"""Classes."""


@dataclass(frozen=True)
class Features:
    """Images as directions in text space, with the classes that they show."""

    pooled: NDArray[np.float32]
    """[images, D], L2-normalised."""
    classes: tuple[str, ...]
    targets: NDArray[np.bool_]
    """[images, classes]."""


def features_of(source: Source, reader: DualReader, folder: Path, batch: int = 32) -> Features:
    """Encode images, or go on where an interrupted run was.

    Args:
        source: the images.
        reader: the dual encoder; its own processor fits the images in.
        folder: of the parts; what is there is of the same images and encoder.
        batch: images at a time.

    Raises:
        LearningError: there are fewer than two classes, or the tower gives NaN.
        ImageError: an image cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, source.images, PART)
    for start in track(starts, "Encoding images", transient=True):
        file = folder / f"{start:08d}.npz"
        if not file.exists():
            _write_part(source, reader, range(start, min(start + PART, source.images)), file, batch)
    pooled, seen = [], list[Sequence[str]]()
    for start in starts:
        with np.load(folder / f"{start:08d}.npz", allow_pickle=False) as stored:
            pooled.append(stored["pooled"])
            seen += json.loads(str(stored["classes"]))
    classes = tuple(sorted({each for classes in seen for each in classes}))
    if len(classes) < FEWEST:
        raise LearningError(f"{source.name} shows fewer than {FEWEST} classes; add images of more")
    targets = np.array([[each in shown for each in classes] for shown in seen], bool)
    return Features(np.concatenate(pooled), classes, targets)


@torch.no_grad()
def _write_part(source: Source, reader: DualReader, places: range, file: Path, batch: int) -> None:
    rows, seen = [], []
    for start in places[::batch]:
        read = [source.read(index) for index in range(start, min(start + batch, places.stop))]
        pixels = reader.pixels([Image.fromarray(image) for image, _ in read])
        found = reader.model.get_image_features(**pixels).pooler_output
        rows.append(F.normalize(found.float(), dim=-1).numpy())
        seen += [classes for _, classes in read]
    pooled = np.concatenate(rows)
    if not np.isfinite(pooled).all():
        raise LearningError(
            f"the image tower gives NaN or infinity for images {places.start} to "
            f"{places.stop - 1} of {source.name}; leave them out, or take another checkpoint"
        )
    part = file.with_suffix(".part.npz")
    named: dict[str, Any] = {"pooled": pooled, "classes": np.array(json.dumps(seen))}
    np.savez(part, **named)
    part.replace(file)
