# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes as image files with what is known of them, to calibrate, validate and evaluate with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from rich.progress import track

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.common.ordinary_files import open_ordinary
from vlm_perception.datasets.answered_images import ANSWERS_FILE
from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE
from vlm_perception.datasets.roadworld.streets import Street, Streets
from vlm_perception.datasets.roadworld.world import OBJECT_LABELS

QUALITY = 95
FIRST_SEED = 5_000_000
"""Scenes from here on were kept out of the training."""


class SceneFilesError(VlmPerceptionError):
    """What is said of scenes is damaged; the message says where."""


def write_images(folder: Path, count: int, size: tuple[int, int], seed: int = FIRST_SEED) -> None:
    """Render scenes into `<folder>/<seed>.jpg`, and what is known of them beside them.

    Files that are there stay as they are; `answers.jsonl`, `captions.jsonl` and `objects.jsonl` get
    a line for each scene that they lack. What a run that was killed has left goes on from there.

    Raises:
        SceneFilesError: A file of lines is damaged.
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
                part = path.with_name(f".{path.name}.part")
                Image.fromarray(street.image).save(part, "JPEG", quality=QUALITY)
                part.replace(path)
            for file in lacking:
                line = {"image": path.name, **KNOWN[file](street)}
                files[file].write(json.dumps(line) + "\n")


def _images_of(file: Path) -> set[str]:
    """The images of a file's lines, whose last one is ended, or dropped where it was cut off."""
    if not file.exists():
        return set()
    lines = JsonLines(file, "a scene", '{"image": "5000000.jpg"}', SceneFilesError)
    _end_last_line(file)
    found = set()
    for where, content in lines:
        if not isinstance(content.get("image"), str):
            raise lines.bad(where, "`image` must be a name")
        found.add(content["image"])
    return found


def _end_last_line(file: Path) -> None:
    with open_ordinary(file) as stream:
        before, end, last = stream.read().rpartition(b"\n")
    if last:
        try:
            json.loads(last)
        except (ValueError, RecursionError):
            os.truncate(file, len(before + end))
        else:
            with file.open("ab") as added:
                added.write(b"\n")


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
