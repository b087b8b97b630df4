# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Renders training scenes once into shards of arrays that are then read in place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance
from vlm_perception.datasets.roadworld.renderer import Rendered
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.datasets.roadworld.truth import ObjectTruth, SceneTruth
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS

RENDER_SIZE = (640, 360)
SCENES_PER_SHARD = 2000
NO_DISTANCE = 255
_SAMPLES_PER_PATCH = 10

T = TypeVar("T")

Preprocess = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class ShardSpec:
    """What one shard holds; equal specs give equal bytes."""

    first_seed: int
    scenes: int
    small: float
    """Share of small objects asked for: a curriculum starts with few."""
    grid: tuple[int, int]
    """Columns and rows of the patch grid."""
    appearance: Appearance = PLAIN
    """Of streets and cameras."""

    @property
    def name(self) -> str:
        """Directory name."""
        grid = f"{self.grid[0]}x{self.grid[1]}"
        looks = self.appearance.name
        return f"{self.first_seed:09d}-{self.scenes}-{self.small:.2f}-{grid}-coloured{looks}"


@dataclass(frozen=True)
class Shard:
    """Arrays of one shard, mapped from disk."""

    images: NDArray[np.uint8]
    """[N, H, W, 3] preprocessed pixels."""
    coverage: NDArray[np.uint8]
    """[N, patches, objects]: percent of the patch that an object label covers."""
    distance: NDArray[np.uint8]
    """[N, patches]: distance of the nearest object in half metres; NO_DISTANCE without one."""
    labels: NDArray[np.bool_]
    """[N, labels]."""
    attributes: NDArray[np.uint8]
    """[N, questions]: index of the true choice."""
    captions: list[list[str]]
    truths: list[SceneTruth]


def dense_truth(
    rendered: Rendered, distances: Sequence[float], grid: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Coverage [patches, objects] in percent and nearest distance [patches] for a patch grid."""
    columns, rows = grid
    size = (columns * _SAMPLES_PER_PATCH, rows * _SAMPLES_PER_PATCH)
    ids = cv2.resize(rendered.ids, size, interpolation=cv2.INTER_NEAREST)
    count = len(OBJECT_LABELS)
    to_label = np.full(256, count, np.int64)
    to_distance = np.full(256, NO_DISTANCE, np.uint8)
    for index, (actor, distance) in enumerate(zip(rendered.objects, distances, strict=True)):
        to_label[index + 1] = OBJECT_LABELS.index(actor.label)
        to_distance[index + 1] = int(np.clip(distance * 2, 0, NO_DISTANCE - 1))
    n = _SAMPLES_PER_PATCH
    patches = ids.reshape(rows, n, columns, n).swapaxes(1, 2).reshape(rows * columns, n * n)
    flat = to_label[patches] + np.arange(rows * columns)[:, None] * (count + 1)
    coverage = np.bincount(flat.ravel(), minlength=rows * columns * (count + 1))
    return (
        coverage.reshape(-1, count + 1)[:, :count].astype(np.uint8),
        to_distance[patches].min(axis=1),
    )


def _write(spec: ShardSpec, directory: Path, preprocess: Preprocess) -> Path:
    """Render one shard; a directory that exists is whole, for it is renamed into place."""
    target = directory / spec.name
    if target.exists():
        return target
    columns: list[list[NDArray[np.uint8]]] = [[], [], []]
    labels, attributes, texts, truths = [], [], [], []
    seeds = range(spec.first_seed, spec.first_seed + spec.scenes)
    streets = Streets(seeds, RENDER_SIZE, spec.small, appearance=spec.appearance)
    for street in streets:
        distances = [actor.s for actor in street.rendered.objects]
        coverage, distance = dense_truth(street.rendered, distances, spec.grid)
        for column, value in zip(
            columns, (preprocess(street.image), coverage, distance), strict=True
        ):
            column.append(value)
        labels.append(street.present(LABELS))
        attributes.append(street.choices(streets.questions))
        texts.append([caption.text for caption in street.captions])
        truths.append(asdict(street.truth))
    partial_dir = directory / f".{spec.name}.{os.getpid()}"
    partial_dir.mkdir(parents=True)
    for name, column in zip(("images", "coverage", "distance"), columns, strict=True):
        np.save(partial_dir / f"{name}.npy", np.stack(column))
    np.save(partial_dir / "labels.npy", np.array(labels))
    np.save(partial_dir / "attributes.npy", np.array(attributes, np.uint8))
    (partial_dir / "captions.json").write_text(json.dumps(texts))
    (partial_dir / "truths.json").write_text(json.dumps(truths))
    try:
        partial_dir.rename(target)
    except OSError:
        shutil.rmtree(partial_dir)
    return target


def render_shards(
    specs: Sequence[ShardSpec], directory: Path, preprocess: Preprocess, workers: int
) -> Iterator[Path]:
    """Render the shards that are missing, in order; yields each directory as it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    job = partial(_write, directory=directory, preprocess=preprocess)
    yield from in_parallel(job, [(spec,) for spec in specs], workers)


def in_parallel(
    job: Callable[..., T], arguments: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[T]:
    """The results of a job that renders, in order; by other processes where there are several."""
    if len(arguments) == 1:
        yield job(*arguments[0])
        return
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(job, *zip(*arguments, strict=True))


def open_shard(path: Path) -> Shard:
    """Map a shard's arrays without reading them."""
    images, coverage, distance = (
        np.load(path / f"{name}.npy", mmap_mode="r") for name in ("images", "coverage", "distance")
    )
    return Shard(
        images,
        coverage,
        distance,
        np.load(path / "labels.npy"),
        np.load(path / "attributes.npy"),
        json.loads((path / "captions.json").read_text()),
        [_truth(stored) for stored in json.loads((path / "truths.json").read_text())],
    )


def _truth(stored: dict[str, Any]) -> SceneTruth:
    objects = tuple(
        ObjectTruth(**{**thing, "box": tuple(thing["box"])}) for thing in stored["objects"]
    )
    return SceneTruth(objects, stored["shares"], stored["attributes"])
