# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as a source: scenes rendered once, and the truth of every part of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS, Streets
from vlm_perception.datasets.roadworld.truth import (
    ObjectTruth,
    SceneTruth,
    captions,
    seen_in,
)
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.training.distillation.examples import Example, Truth, View
from vlm_perception.training.distillation.images.pixels import brightened, crop, resized
from vlm_perception.training.distillation.recipe import RoadWorldImages

FRAME = (640, 360)
SCENES = 500
"""Of a file."""
QUALITY = 95
_SAMPLES = 10
"""Pixels along each side of a patch, by which its content is counted."""


@dataclass(frozen=True)
class _Scene:
    seed: int
    frame: bytes
    """JPEG."""
    ids: bytes
    """PNG of the identity of each pixel."""
    truth: SceneTruth
    """Of the whole frame, with the identity of each object."""


class RoadWorld:
    """Scenes with successive seeds."""

    captioned = True

    def __init__(self, spec: RoadWorldImages, folder: Path) -> None:
        """Render the scenes that are missing.

        Args:
            spec: which scenes.
            folder: keeps them.
        """
        self._spec = spec
        self._files = [
            (first, min(SCENES, spec.first_seed + spec.count - first))
            for first in range(spec.first_seed, spec.first_seed + spec.count, SCENES)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / _name(first, count, spec.small) for first, count in self._files]
        missing = [
            each for each, path in zip(self._files, self._paths, strict=True) if not path.exists()
        ]
        if missing:
            job = partial(_render, folder=folder, small=spec.small)
            # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
            context = get_context("spawn")
            with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context) as pool:
                rendered = pool.map(job, *zip(*missing, strict=True))
                for _ in track(rendered, "Rendering scenes", total=len(missing)):
                    pass
        content = f"{spec.model_dump(exclude={'cache'})} {FRAME} {QUALITY}"
        self.digest = hashlib.sha256(content.encode()).hexdigest()

    def __len__(self) -> int:
        """Number of scenes."""
        return self._spec.count

    def name(self, index: int) -> str:
        """Its seed."""
        return f"road world, seed {self._spec.first_seed + index}"

    def picture(self, index: int, view: View) -> NDArray[np.uint8]:
        """A view of the frame."""
        scene = self._scene(index)
        return brightened(crop(_decoded(scene.frame), view), view.gain)

    def example(
        self, index: int, view: View, size: tuple[int, int], grid: tuple[int, int]
    ) -> Example:
        """A view with its truth, counted again from the identity of its pixels."""
        scene = self._scene(index)
        image = brightened(resized(crop(_decoded(scene.frame), view), size), view.gain)
        whole = cv2.imdecode(np.frombuffer(scene.ids, np.uint8), cv2.IMREAD_UNCHANGED)
        ids = crop(np.asarray(whole, np.uint8), view)
        truth = seen_in(_mirrored(scene.truth) if view.mirrored else scene.truth, ids)
        texts = captions(truth, np.random.default_rng((scene.seed, 5)))
        return Example(self.name(index), image, texts, _truth(truth, scene.truth, ids, grid))

    def _scene(self, index: int) -> _Scene:
        number, place = divmod(index, SCENES)
        return _opened(self._paths[number])[place]


def _truth(
    truth: SceneTruth, whole: SceneTruth, ids: NDArray[np.uint8], grid: tuple[int, int]
) -> Truth:
    columns, rows = grid
    count, size = len(OBJECT_LABELS), (columns * _SAMPLES, rows * _SAMPLES)
    small = cv2.resize(np.ascontiguousarray(ids), size, interpolation=cv2.INTER_NEAREST)
    to_label, to_distance = np.full(256, count, np.int64), np.full(256, np.inf, np.float32)
    for thing in whole.objects:
        to_label[thing.identity] = OBJECT_LABELS.index(thing.label)
        to_distance[thing.identity] = max(thing.distance, 0.0)
    patches = small.reshape(rows, _SAMPLES, columns, _SAMPLES).swapaxes(1, 2)
    patches = patches.reshape(rows * columns, -1)
    flat = to_label[patches] + np.arange(rows * columns)[:, None] * (count + 1)
    coverage = np.bincount(flat.ravel(), minlength=rows * columns * (count + 1))
    nearest = to_distance[patches].min(axis=1)
    return Truth(
        np.array([label in truth.labels for label in LABELS]),
        np.array(
            [each.choices.index(truth.attributes[each.name]) for each in TYPED_QUESTIONS], np.uint8
        ),
        coverage.reshape(rows, columns, count + 1)[..., :count].astype(np.uint8),
        np.where(np.isinf(nearest), np.nan, nearest).reshape(rows, columns).astype(np.float32),
    )


def _mirrored(truth: SceneTruth) -> SceneTruth:
    """The same on the other side of the road."""
    objects = tuple(replace(thing, offset=-thing.offset) for thing in truth.objects)
    return replace(truth, objects=objects)


def _decoded(frame: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(frame, colorspace="RGB")
    return pixels


def _name(first: int, count: int, small: float) -> str:
    return f"{first:09d}-{count}-{small:.2f}.npz"


def _render(first: int, count: int, *, folder: Path, small: float) -> Path:
    """Render some scenes into one file, which is whole when it is there."""
    target = folder / _name(first, count, small)
    cv2.setNumThreads(1)
    content: dict[str, NDArray[np.uint8]] = {}
    truths = []
    for place, street in enumerate(Streets(range(first, first + count), FRAME, small)):
        frame = simplejpeg.encode_jpeg(
            np.ascontiguousarray(street.image), QUALITY, "RGB", colorsubsampling="444"
        )
        _, ids = cv2.imencode(".png", street.rendered.ids)
        content[f"frame{place}"] = np.frombuffer(frame, np.uint8)
        content[f"ids{place}"] = ids.ravel()
        truths.append(asdict(street.truth))
    content["truths"] = np.frombuffer(json.dumps(truths).encode(), np.uint8)
    partial_file = folder / f".{target.stem}.{os.getpid()}.npz"
    np.savez(partial_file, **content)  # type: ignore[arg-type]
    partial_file.rename(target)
    return target


@lru_cache(128)
def _opened(path: Path) -> Sequence[_Scene]:
    """All scenes of a file: some 40 MB."""
    first = int(path.name.split("-")[0])
    with np.load(path) as stored:
        truths = json.loads(stored["truths"].tobytes())
        return [
            _Scene(
                first + place,
                stored[f"frame{place}"].tobytes(),
                stored[f"ids{place}"].tobytes(),
                _scene_truth(truth),
            )
            for place, truth in enumerate(truths)
        ]


def _scene_truth(stored: dict[str, Any]) -> SceneTruth:
    objects = tuple(
        ObjectTruth(**{**thing, "box": tuple(thing["box"])}) for thing in stored["objects"]
    )
    return SceneTruth(objects, stored["shares"], stored["attributes"])
