# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the exam of adapted prompts: a folder for each task, and in it one for each class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from vlm_perception.common.machine import cpu_count
from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.datasets.roadworld.files.shards import in_parallel
from vlm_perception.datasets.roadworld.heroes.classes import (
    HeroClass,
    HeroTask,
    Look,
    Part,
    digest,
    tasks,
)
from vlm_perception.datasets.roadworld.heroes.scenes import hero_street
from vlm_perception.datasets.roadworld.heroes.training import captions, training_look
from vlm_perception.outputs.file import write_whole
from vlm_perception.outputs.own import own_folder

VERB = "roadworld heroes"
SIZE = (320, 180)
QUALITY = 95
EXAM_FILE = "exam.json"
SOURCE, VALIDATION, TRAINING = "source", "validation", "training"
FORMAT_VERSION = 1
EXAM_SEED, VALIDATION_SEED, SOURCE_SEED = 22_000_000, 23_000_000, 24_000_000
TRAINING_SEED = 6_000_000
SEEDS_OF_CLASS = 10_000
"""Between the first seeds of two classes of a part."""
OF_A_JOB = 200
"""Images that a process renders before it is given others."""
SOURCE_IMAGES = 16
"""Of each class that prompts are learned from, as CoOp takes them."""


@dataclass(frozen=True)
class _Image:
    path: Path
    look: Look
    seed: int


def write_exam(out: Path, per_class: int, training: int = 0) -> str:
    """Write what is missing of the exam, and return the digest of its classes.

    Args:
        out: `TASK/CLASS/SEED.jpg` below it; `validation/` has the same with the classes to choose
            by, and `source/` the classes that prompts are learned from.
        per_class: images of each class of a task; a quarter of them of each to choose by.
        training: images with captions, `training/`, for an encoder.

    Raises:
        OutputError: the folder is another's.
        OSError: it cannot be written.
    """
    with own_folder(out, VERB, []) as folder:
        images = [*_images(folder, per_class), *_to_learn_from(folder / TRAINING, training)]
        missing = [image for image in images if not image.path.exists()]
        jobs = [missing[at : at + OF_A_JOB] for at in range(0, len(missing), OF_A_JOB)]
        if jobs:
            made = in_parallel(_write, [(job,) for job in jobs], cpu_count())
            for _ in track(made, "Rendering scenes", total=len(jobs)):
                pass
        told = digest(tasks())
        _write_index(folder, told, "exam")
        _write_index(folder / VALIDATION, told, "validation")
        if training:
            _write_captions(folder / TRAINING, training)
        return told


def _images(out: Path, per_class: int) -> Iterator[_Image]:
    parts: tuple[tuple[int, Part, Path, int], ...] = (
        (EXAM_SEED, "exam", out, per_class),
        (VALIDATION_SEED, "validation", out / VALIDATION, max(1, per_class // 4)),
    )
    for first, part, below, count in parts:
        of_part = (
            (task.name, each)
            for task in tasks()
            for each in task.classes
            if each.part in ("seen", part)
        )
        for number, (task, each) in enumerate(of_part):
            yield from _of_class(below / task, each, first + number * SEEDS_OF_CLASS, count)
    source = (each for each in tasks()[0].classes if each.part == "seen")
    for number, each in enumerate(source):
        seed = SOURCE_SEED + number * SEEDS_OF_CLASS
        yield from _of_class(out / SOURCE, each, seed, SOURCE_IMAGES)


def _of_class(below: Path, each: HeroClass, first: int, count: int) -> Iterator[_Image]:
    folder = below / each.name.replace(" ", "_")
    return (_Image(folder / f"{seed}.jpg", each.look, seed) for seed in range(first, first + count))


def _to_learn_from(folder: Path, count: int) -> Iterator[_Image]:
    for seed in range(TRAINING_SEED, TRAINING_SEED + count):
        yield _Image(folder / f"{seed}.jpg", training_look(_draw(seed)), seed)


def _write_captions(folder: Path, count: int) -> None:
    lines = []
    for image in _to_learn_from(folder, count):
        texts = captions(image.look)
        lines.append({"image": image.path.name, "captions": texts, "language": "en"})
    content = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(folder / CAPTIONS_FILE, content)


def _draw(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, 32))


def _write(images: Sequence[_Image]) -> None:
    for image in images:
        image.path.parent.mkdir(parents=True, exist_ok=True)
        part = image.path.with_name(f".{image.path.name}.part")
        pixels = hero_street(image.look, image.seed, SIZE).image
        Image.fromarray(pixels).save(part, "JPEG", quality=QUALITY)
        part.replace(image.path)


def _write_index(folder: Path, told: str, part: Part) -> None:
    """Name the tasks; those without classes that are kept from the encoder have all as new ones."""
    content = {
        "format": FORMAT_VERSION,
        "digest": told,
        "tasks": [_task(task, part) for task in tasks()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / EXAM_FILE, json.dumps(content, indent=1) + "\n")


def _task(task: HeroTask, part: Part) -> dict[str, object]:
    seen = task.names("seen")
    whole = len(seen) == len(task.classes)
    return {
        "name": task.name,
        "folder": task.name,
        "control": task.control,
        "base": [] if whole else list(seen),
        "new": list(seen if whole else task.names(part)),
    }
