# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes as image files with what is known of them, to calibrate, validate and evaluate with."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from rich.progress import track

from vlm_perception.datasets.answered_images import ANSWERS_FILE
from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE
from vlm_perception.datasets.roadworld.streets import Street, Streets
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS

QUALITY = 95
FIRST_SEED = 5_000_000
"""Scenes from here on were kept out of the training."""


def write_images(folder: Path, count: int, size: tuple[int, int], seed: int = FIRST_SEED) -> None:
    """Render scenes into `<folder>/<seed>.jpg`, and what is known of them beside them.

    Files that are there stay as they are; `answers.jsonl`, `captions.jsonl` and `objects.jsonl` get
    a line for each scene that they lack.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = {file: _images_of(folder / file) for file in KNOWN}
    with ExitStack() as stack:
        files = {
            file: stack.enter_context((folder / file).open("a", encoding="utf-8")) for file in KNOWN
        }
        for number in track(range(seed, seed + count), "Rendering scenes", transient=True):
            path = folder / f"{number}.jpg"
            lacking = [file for file in KNOWN if path.name not in told[file]]
            if path.exists() and not lacking:
                continue
            (street,) = Streets(range(number, number + 1), size)
            if not path.exists():
                Image.fromarray(street.image).save(path, quality=QUALITY)
            for file in lacking:
                line = {"image": path.name, **KNOWN[file](street)}
                files[file].write(json.dumps(line) + "\n")


def _images_of(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {json.loads(line)["image"] for line in lines}


def _captions(street: Street) -> dict[str, object]:
    return {"captions": [caption.text for caption in street.captions], "language": "en"}


def _objects(street: Street) -> dict[str, object]:
    return {"objects": [label for label in street.labels if label in OBJECT_LABELS]}


KNOWN: dict[str, Callable[[Street], dict[str, object]]] = {
    ANSWERS_FILE: lambda street: {"answers": street.answers},
    CAPTIONS_FILE: _captions,
    OBJECTS_FILE: _objects,
}
"""What the line of a scene says in each file."""
