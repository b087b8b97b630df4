# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as a source: scenes rendered once, and the truth of every part of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.common.machine import cpu_count
from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance, open_appearance
from vlm_perception.datasets.roadworld.files.clip import WORLD_VERSION
from vlm_perception.datasets.roadworld.files.shards import in_parallel
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
from vlm_perception.training.distillation.learned import Learned
from vlm_perception.training.distillation.recipe import DistillationError, RoadWorldImages

FRAME = (640, 360)
SCENES = 500
"""Of a folder, at most."""
EASY = 0.05
"""Share of small objects that easy scenes are asked for."""
QUALITY = 95
_DATA, _ENDS = "scenes.bin", "ends.npy"
_SAMPLES = 10
"""Pixels along each side of a patch, by which its content is counted."""


@dataclass(frozen=True)
class _Scene:
    frame: NDArray[np.uint8]
    """JPEG."""
    ids: NDArray[np.uint8]
    """PNG of the identity of each pixel."""
    truth: SceneTruth
    """Of the whole frame, with the identity of each object."""


class RoadWorld:
    """Scenes with successive seeds."""

    captioned = True

    def __init__(self, spec: RoadWorldImages, folder: Path, home: Path) -> None:
        """Render the scenes that are missing.

        Args:
            spec: which scenes.
            folder: keeps them.
            home: folder of the recipe.

        Raises:
            VlmPerceptionError: its photographs cannot be used.
            DistillationError: what is kept there is damaged.
        """
        self._spec = spec
        self.learned = learned(spec)
        looks = appearance_of(spec, home)
        asked = parts(spec, SCENES)
        places = [folder / _name(*part, looks) for part in asked]
        missing = [part for part, place in zip(asked, places, strict=True) if not place.is_dir()]
        folder.mkdir(parents=True, exist_ok=True)
        if missing:
            job = partial(_render, folder=folder, appearance=looks)
            made = in_parallel(job, missing, cpu_count())
            for _ in track(made, "Rendering scenes", total=len(missing)):
                pass
        kept = [_opened(place, count) for place, (_, count, _) in zip(places, asked, strict=True)]
        self._data = [data for data, _ in kept]
        self._ends = [ends for _, ends in kept]
        self._firsts = [first - spec.first_seed for first, _, _ in asked]
        seen = spec.model_dump(exclude={"cache", "appearance", "plain", "photographs", "easy"})
        content = f"{seen} {FRAME} {QUALITY} {WORLD_VERSION}{looks.name}"
        content += f" {spec.easy} easy" if spec.easy else ""
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
        truth, ids = _seen(scene, view)
        texts = self._texts(index, truth)
        return Example(self.name(index), image, texts, _truth(truth, scene.truth, ids, grid))

    def captions(self, index: int, view: View) -> tuple[str, ...]:
        """Worded anew from what a view shows."""
        return self._texts(index, _seen(self._scene(index), view)[0])

    def _texts(self, index: int, truth: SceneTruth) -> tuple[str, ...]:
        return captions(truth, np.random.default_rng((self._spec.first_seed + index, 5)))

    def _scene(self, index: int) -> _Scene:
        number = bisect_right(self._firsts, index) - 1
        place = index - self._firsts[number]
        data, ends = self._data[number], self._ends[number].ravel()
        cuts = np.concatenate(([0], ends))[3 * place : 3 * place + 4].tolist()
        frame, ids, truth = (np.asarray(data[i:j]) for i, j in pairwise(cuts))
        return _Scene(frame, ids, _scene_truth(json.loads(truth.tobytes())))


def learned(spec: RoadWorldImages) -> Learned:
    """What whoever learns from such scenes has learned from."""
    return Learned(seeds=((spec.first_seed, spec.first_seed + spec.count),))


def appearance_of(spec: RoadWorldImages, home: Path) -> Appearance:
    """What such scenes look like, for a recipe in the folder `home`.

    Raises:
        VlmPerceptionError: the photographs cannot be used.
    """
    folder = home / Path(spec.photographs).expanduser() if spec.photographs else None
    return open_appearance(spec.appearance, spec.plain, folder)


def parts(spec: RoadWorldImages, most: int) -> list[tuple[int, int, float]]:
    """First seed, number of scenes and share of small objects of parts of at most `most` scenes."""
    first, end = spec.first_seed, spec.first_seed + spec.count
    ranges = ((first, first + spec.easy, EASY), (first + spec.easy, end, spec.small))
    return [
        (start, min(most, stop - start), small)
        for begin, stop, small in ranges
        for start in range(begin, stop, most)
    ]


def _seen(scene: _Scene, view: View) -> tuple[SceneTruth, NDArray[np.uint8]]:
    """What a view shows, and the identity of each of its pixels."""
    whole = cv2.imdecode(scene.ids, cv2.IMREAD_UNCHANGED)
    ids = crop(np.asarray(whole, np.uint8), view)
    truth = _mirrored(scene.truth) if view.mirrored else scene.truth
    return truth if view.scale == 1.0 else seen_in(truth, ids), ids


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
    objects = []
    for thing in truth.objects:
        x, y, width, height = thing.box
        box = (FRAME[0] - x - width, y, width, height)
        objects.append(replace(thing, offset=-thing.offset, box=box))
    return replace(truth, objects=tuple(objects))


def _decoded(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(frame, colorspace="RGB")
    return pixels


def _name(first: int, count: int, small: float, appearance: Appearance) -> str:
    return f"{first:09d}-{count}-{small:g}-v{WORLD_VERSION}{appearance.name}"


def _render(
    first: int, count: int, small: float, *, folder: Path, appearance: Appearance = PLAIN
) -> None:
    """Render some scenes into one folder; one that is there is whole."""
    target = folder / _name(first, count, small, appearance)
    aside = folder / f".{target.name}.{os.getpid()}"
    aside.mkdir(parents=True)
    ends: list[int] = []
    with (aside / _DATA).open("wb") as stream:
        seeds = range(first, first + count)
        for street in Streets(seeds, FRAME, small, appearance=appearance):
            frame = simplejpeg.encode_jpeg(
                np.ascontiguousarray(street.image), QUALITY, "RGB", colorsubsampling="444"
            )
            _, ids = cv2.imencode(".png", street.rendered.ids)
            truth = json.dumps(asdict(street.truth)).encode()
            for part in (frame, ids.tobytes(), truth):
                stream.write(part)
                ends.append(stream.tell())
        stream.flush()
        os.fsync(stream.fileno())
    np.save(aside / _ENDS, np.array(ends, np.int64).reshape(count, 3))
    try:
        aside.rename(target)
    except OSError:
        # Another run has rendered the same.
        shutil.rmtree(aside)


def _opened(folder: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of all scenes, mapped, and where the parts of each end: [scenes, parts]."""
    try:
        ends: NDArray[np.int64] = np.load(folder / _ENDS)
        data: NDArray[np.uint8] = np.memmap(folder / _DATA, np.uint8, "r")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    if ends.shape != (count, 3) or len(data) != ends[-1, -1]:
        raise _damaged(folder, "its files do not fit each other")
    return data, ends


def _damaged(folder: Path, why: object) -> DistillationError:
    return DistillationError(
        f"the rendered scenes in {folder} cannot be used ({why}); remove that folder, and they "
        "are rendered again"
    )


def _scene_truth(stored: dict[str, Any]) -> SceneTruth:
    objects = tuple(
        ObjectTruth(**{**thing, "box": tuple(thing["box"])}) for thing in stored["objects"]
    )
    return SceneTruth(objects, stored["shares"], stored["attributes"])
