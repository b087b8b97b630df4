# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How well phrases are located in unseen scenes, beside the regions of tags and the whole image.

Pointing, the centre of the best box on an object that is meant, is the measure of Zhang et al.,
Top-down Neural Attention by Excitation Backprop (ECCV 2016), section 4.1.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import Street
from vlm_perception.datasets.roadworld.truth import SMALL_SHARE
from vlm_perception.evaluation.locate.methods import Places, methods_of
from vlm_perception.evaluation.locate.phrases import ABSENT, KINDS, Asked, ask
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.evaluation.road_world import require_road_world
from vlm_perception.evaluation.task import run_task
from vlm_perception.evaluation.tasks.roadworld import SIZES, evaluation_streets
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.patches import PatchLocator
from vlm_perception.perception.locating.tracking import overlap
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame, LocatedBox

ALL, NOT_SMALL = "all", "medium and large"
ROWS = {**SIZES, NOT_SMALL: (SMALL_SHARE, 1.01), ALL: (0.0, 1.01)}
"""Share of the image that the largest object meant covers."""
DISTANCES = {"below 10 m": (0.0, 10.0), "10-20 m": (10.0, 20.0), "from 20 m": (20.0, 1e9)}
IOUS = (0.3, 0.5)


@dataclass(frozen=True)
class Placed:
    """What one method gave for one phrase."""

    asked: Asked
    seconds: float
    """With what a method does once for each image, as if nothing else were asked of it."""
    boxes: int
    hit: bool
    """The centre of the best box is on a pixel of an object that is meant."""
    found: tuple[tuple[bool, ...], ...]
    """For each of IOUS: which of the objects that are meant have a box."""
    right: tuple[tuple[int, int], ...]
    """For each of IOUS: boxes on an object that is meant, of so many that count."""


@dataclass
class Locating:
    """A bundle that is asked where things are, by every method."""

    bundle: ModelBundle
    placed: dict[str, list[Placed]] = field(default_factory=lambda: defaultdict(list))
    unreadable: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    scenes: int = 0

    def __post_init__(self) -> None:
        """Load the networks."""
        self._encoder = VisionEncoder(self.bundle, temporal=False)
        self._locator = PatchLocator(self.bundle)
        self._methods, self._missing = methods_of(self.bundle, self._locator)
        self._query_s: list[float] = []

    def take(self, sample: Street) -> None:
        """Ask everything of one scene."""
        embedding = self._encoder.encode(Frame(sample.image, 0), self.scenes)
        asked = ask(sample.truth, sample.image.shape[1], np.random.default_rng((self.scenes, 18)))
        began = time.perf_counter()
        self._locator.queries([one.phrase for one in asked])
        self._query_s.append(time.perf_counter() - began)
        for name, method in self._methods.items():
            began = time.perf_counter()
            method.look(embedding)
            looked_s = time.perf_counter() - began
            for one in asked:
                placed = self._place(name, method, one, sample.rendered.ids, looked_s)
                self.placed[name].append(placed)
        self.scenes += 1

    def _place(
        self, name: str, method: Places, asked: Asked, ids: NDArray[np.uint8], looked_s: float
    ) -> Placed:
        began = time.perf_counter()
        try:
            boxes = method.find(asked)
        except LocateError:
            boxes = ()
            self.unreadable[name] += 1
        seconds = looked_s + time.perf_counter() - began
        found, right = zip(*(_matched(boxes, asked, least) for least in IOUS), strict=True)
        return Placed(asked, seconds, len(boxes), _points(boxes, asked, ids), found, right)

    def report(self) -> Report:
        """The figures of every method."""
        rows = [
            _row(name, kind, size, placed)
            for name, placed in self.placed.items()
            for kind in (*KINDS, ALL)
            for size in ROWS
        ]
        absent = {
            name: float(np.mean([not p.boxes for p in placed if p.asked.kind == ABSENT]))
            for name, placed in self.placed.items()
            if any(p.asked.kind == ABSENT for p in placed)
        }
        distances = [
            _distance_row(name, distance, placed)
            for name, placed in self.placed.items()
            for distance in DISTANCES
        ]
        rivals = {name: _rivals(placed) for name, placed in self.placed.items()}
        embedded = f"{1e3 * max(self._query_s):.0f} ms at most to embed a scene's new phrases"
        parts: list[RenderableType] = [
            _table(rows),
            _size_table(rows),
            _distance_table(distances),
            _rest_table(absent, rivals, self.unreadable),
            f"{self.scenes} scenes; {embedded}",
        ]
        if self._missing:
            parts.append(f"not measured: the method model, for {self._missing}")
        return Report(
            parts,
            {
                "rows": rows,
                "by_distance": distances,
                "absent_without_box": absent,
                "colour_pointing_with_rivals": rivals,
                "unreadable": dict(self.unreadable),
                "scenes": self.scenes,
                "bundle_digest": self.bundle.digest,
            },
        )


def run(bundle: str, scenes: int) -> Report:
    """Ask where things are in unseen scenes.

    Raises:
        BundleError: the bundle cannot be used.
        ForeignBundleError: it does not know the road world's labels.
    """
    model = ModelBundle.load(bundle)
    require_road_world(model)
    return run_task(Locating(model), evaluation_streets(scenes))


def _points(boxes: Sequence[LocatedBox], asked: Asked, ids: NDArray[np.uint8]) -> bool:
    if not boxes:
        return False
    best = boxes[0]
    column = min(int(best.x + best.width / 2), ids.shape[1] - 1)
    row = min(int(best.y + best.height / 2), ids.shape[0] - 1)
    return int(ids[row, column]) in {thing.identity for thing in (*asked.meant, *asked.specks)}


def _matched(
    boxes: Sequence[LocatedBox], asked: Asked, least: float
) -> tuple[tuple[bool, ...], tuple[int, int]]:
    """Which objects have a box of their own, and how many boxes are on one, of how many.

    Boxes choose in their order. One on a speck counts neither way.
    """
    things = [LocatedBox(*thing.box, math.nan) for thing in (*asked.meant, *asked.specks)]
    free = set(range(len(things)))
    taken: list[int | None] = []
    for box in boxes:
        overlaps = [(overlap(box, things[index]), index) for index in free]
        most, index = max(overlaps, default=(0.0, -1))
        if most >= least:
            free.discard(index)
            taken.append(index)
        else:
            taken.append(None)
    wanted = len(asked.meant)
    counted = [index for index in taken if index is None or index < wanted]
    right = sum(index is not None for index in counted)
    return tuple(index not in free for index in range(wanted)), (right, len(counted))


def _share(values: Iterable[float]) -> float:
    """Mean; NaN of none."""
    known = list(values)
    return float(np.mean(known)) if known else math.nan


def _row(name: str, kind: str, size: str, placed: Sequence[Placed]) -> dict[str, object]:
    low, high = ROWS[size]
    asked = [p for p in placed if p.asked.meant and kind in (ALL, p.asked.kind)]
    here = [p for p in asked if low <= p.asked.share < high]
    row: dict[str, object] = {
        "method": name,
        "phrase_kind": kind,
        "size": size,
        "phrases": len(here),
        "pointing": _share(p.hit for p in here),
    }
    for number, least in enumerate(IOUS):
        key = f"iou{round(100 * least)}"
        recalled = [
            hit
            for p in asked
            for thing, hit in zip(p.asked.meant, p.found[number], strict=True)
            if low <= thing.share < high
        ]
        right, counted = (sum(p.right[number][part] for p in here) for part in (0, 1))
        row[f"recall_{key}"] = _share(recalled)
        row[f"precision_{key}"] = right / counted if counted else math.nan
        row["objects"] = len(recalled)
    row["ms"] = 1e3 * float(np.median([p.seconds for p in here])) if here else math.nan
    return row


def _distance_row(name: str, distance: str, placed: Sequence[Placed]) -> dict[str, object]:
    low, high = DISTANCES[distance]
    here = [p for p in placed if p.asked.meant and low <= p.asked.meant[0].distance < high]
    return {
        "method": name,
        "distance": distance,
        "phrases": len(here),
        "pointing": _share(p.hit for p in here),
    }


def _rivals(placed: Sequence[Placed]) -> float:
    """Pointing at colours where others of the label have another one."""
    return _share(
        p.hit
        for p in placed
        if p.asked.kind == "label + colour" and p.asked.rivals and p.asked.share >= SMALL_SHARE
    )


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[dict[str, object]]) -> Table:
    table = figure_table(
        "Phrases for objects above 0.5 % of the image",
        "method",
        "phrases by",
        "number",
        *("pointing", "recall 0.3", "recall 0.5", "precision 0.3", "precision 0.5", "ms"),
        words=2,
    )
    keys = ("recall_iou30", "recall_iou50", "precision_iou30", "precision_iou50")
    for row in rows:
        if row["size"] == NOT_SMALL:
            figures = [_number(row[key]) for key in ("phrases", "pointing", *keys)]
            table.add_row(str(row["method"]), str(row["phrase_kind"]), *figures, f"{row['ms']:.1f}")
    return table


def _size_table(rows: Sequence[dict[str, object]]) -> Table:
    table = figure_table(
        "By size: pointing, recall at IoU 0.5", "method", "phrases by", *SIZES, words=2
    )
    by_key = {(row["method"], row["phrase_kind"], row["size"]): row for row in rows}
    for name in dict.fromkeys(str(row["method"]) for row in rows):
        for kind in (*KINDS, ALL):
            cells = [by_key[name, kind, size] for size in SIZES]
            table.add_row(
                name,
                kind,
                *(f"{_number(c['pointing'])}, {_number(c['recall_iou50'])}" for c in cells),
            )
    return table


def _distance_table(rows: Sequence[dict[str, object]]) -> Table:
    table = figure_table("Pointing by distance", "method", *DISTANCES)
    for name in dict.fromkeys(str(row["method"]) for row in rows):
        table.add_row(name, *(_number(row["pointing"]) for row in rows if row["method"] == name))
    return table


def _rest_table(
    absent: dict[str, float], rivals: dict[str, float], unreadable: dict[str, int]
) -> Table:
    table = figure_table(
        "Absent labels, and colours among others of the label",
        "method",
        "absent: no box",
        "colour among rivals: pointing",
        "unreadable answers",
    )
    for name, value in absent.items():
        table.add_row(name, f"{value:.3f}", _number(rivals[name]), str(unreadable.get(name, 0)))
    return table
