# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes as image files with the true answers, to calibrate and to validate with."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from rich.progress import track

from vlm_perception.datasets.answered_images import ANSWERS_FILE
from vlm_perception.datasets.roadworld.streets import Streets

QUALITY = 95
FIRST_SEED = 5_000_000
"""Scenes from here on were kept out of the training."""


def write_images(folder: Path, count: int, size: tuple[int, int], seed: int = FIRST_SEED) -> None:
    """Render scenes into `<folder>/<seed>.jpg`, and the answers to the typed questions beside them.

    Files that are there stay as they are; `answers.jsonl` gets a line for each scene that it lacks,
    as `vlm-perception calibrate answers` reads them.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = folder / ANSWERS_FILE
    lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
    answered = {json.loads(line)["image"] for line in lines}
    with answers.open("a", encoding="utf-8") as written:
        for number in track(range(seed, seed + count), "Rendering scenes", transient=True):
            path = folder / f"{number}.jpg"
            if path.exists() and path.name in answered:
                continue
            (street,) = Streets(range(number, number + 1), size)
            if not path.exists():
                Image.fromarray(street.image).save(path, quality=QUALITY)
            if path.name not in answered:
                line = {"image": path.name, "answers": street.answers}
                written.write(json.dumps(line) + "\n")
