# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Images with classes: a folder for each class, a curated set, or the road world."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.final_set import FinalSplit, find_final
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import look
from vlm_perception.media.image_folder import list_images, read_image

ROAD_WORLD = "roadworld"
FIRST_SEED = 3_000_000
"""Of the road world's scenes."""
SIZE = (256, 144)
SMALL = 0.3
"""Share of small objects that is asked of a scene."""
TRAIN = "train"
SHOWN = 5
"""Classes that are named."""


class LearningError(VlmPerceptionError):
    """Prompts cannot be learned so; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Images in a fixed order, each with the classes that it shows."""

    name: str
    images: int
    read: Callable[[int], tuple[NDArray[np.uint8], tuple[str, ...]]]
    """Gives an image by its place, RGB [H, W, 3], and its classes."""
    identity: str
    """A digest of what the images are."""


def open_source(data: str, scenes: int) -> Source:
    """Open a source of images with classes.

    Args:
        data: a folder with a folder for each class, a curated set, or `roadworld`.
        scenes: how many scenes of the road world.

    Raises:
        LearningError: there are none, or a class has none.
        FinalSetError: a curated set cannot be read.
    """
    path = Path(data).expanduser()
    if data == ROAD_WORLD:
        said = [ROAD_WORLD, str(FIRST_SEED), str(scenes), str(SIZE)]
        return Source("the road world", scenes, _scene, _digest(said))
    final = find_final(path, TRAIN)
    return _folders(path) if final is None else _curated(*final)


def _folders(path: Path) -> Source:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise LearningError(
            f"{path} {what}; give a folder with a folder for each class, a curated set, or "
            f"{ROAD_WORLD}"
        )
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    files: list[tuple[Path, str]] = []
    without = []
    for folder in folders:
        found = list_images(folder, deep=True)
        files += [(file, folder.name.replace("_", " ").strip()) for file in found]
        without += [] if found else [folder.name]
    if without:
        more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
        raise LearningError(
            f"{path} has no image of {', '.join(without[:SHOWN])}{more}; add some, or remove the "
            "folder"
        )
    if len(folders) < 2:
        raise LearningError(
            f"{path} has {len(folders)} folders with images; put the images of each class into "
            "one, of two classes at least"
        )

    def read(index: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        file, name = files[index]
        return read_image(file), (name,)

    said = [f"{file.relative_to(path)} {file.stat().st_size}" for file, _ in files]
    return Source(str(path), len(files), read, _digest(said))


def _curated(folder: Path, split: str) -> Source:
    opened = FinalSplit(folder, split, remember_all=True)
    seen: list[tuple[tuple[int, int], tuple[str, ...]]] = []
    for known in opened.records():
        objects = dict.fromkeys(each.casefold() for each in known.record.get("objects", ()))
        if objects:
            seen.append(((known.shard, known.place), tuple(objects)))
    if not seen:
        raise LearningError(
            f"{folder / split} has no image with objects; give a set whose sources name them "
            "(objects.jsonl), or a folder with a folder for each class"
        )

    def read(index: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        place, objects = seen[index]
        return opened.image(*place).pixels(), objects

    said = [opened.contents.digest, split]
    return Source(str(folder / split), len(seen), read, _digest(said))


def _scene(index: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    street = look(sample_scene(FIRST_SEED + index, SMALL), SIZE)
    return np.asarray(street.image, np.uint8), tuple(street.labels)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
