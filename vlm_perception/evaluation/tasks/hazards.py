# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Recall of objects in the lane, by distance: the fast path alone and fused.

A mean over labels hides the far pedestrian. So each scene here is staged: one road user in the own
lane at a drawn distance, no other of its kind in the image. The same number of scenes without any
gives the false alarms: a detector that always fires has recall 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld import assets
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.streets import CAMERA_SIZE, look
from vlm_perception.datasets.roadworld.world import VEHICLES, Actor, World
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import EXAM_SEED, require_road_world
from vlm_perception.perception.fusion.rules import Hazard
from vlm_perception.perception.fusion.scene import FusionSettings, SceneFusion
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, Reasoning

BANDS = ((5, 10), (10, 20), (20, 30), (30, 45))
"""Metres along the road."""
LEAST_VISIBLE = 0.5
"""Share of the road user that must not be hidden behind something else."""
KINDS = (
    (Hazard.parse("pedestrian | pedestrian_in_path=yes"),),
    (Hazard.parse("bicycle"),),
    (Hazard.parse("car | lead_vehicle=near"), Hazard.parse("car | lead_vehicle=far")),
)
"""What is looked for, with the answers of the slow path that indicate it."""
FAST, FUSED = "fast", "fused"
TICK_NS = 10_000_000_000
"""Between the stamps of two scenes: far enough that each is a world of its own."""


@dataclass(frozen=True)
class HazardRow:
    """What one bundle reports of one kind by one path."""

    bundle: str
    bundle_digest: str
    tokens: int
    hazard: str
    path: str
    recall: Mapping[str, float]
    """Of each band, as `5-10 m`."""
    false_alarms: float
    """Share of the scenes without any in which one is reported."""


def run(bundles: Sequence[str], scenes: int) -> Report:
    """Stage the scenes, run every bundle, and report each kind in a table.

    Args:
        bundles: names or directories of road-world bundles, such as a pruned and a dense one.
        scenes: scenes of each kind in each band, and the same number without any.

    Raises:
        BundleError: a bundle cannot be used.
        ForeignBundleError: it is no road-world bundle.
    """
    observers = [Observer(ModelBundle.load(bundle)) for bundle in bundles]
    rows: list[HazardRow] = []
    bands: tuple[tuple[int, int] | None, ...] = (*BANDS, None)
    with Progress(transient=True) as progress:
        bar = progress.add_task("Scenes", total=len(KINDS) * len(bands) * scenes)
        for rules in KINDS:
            found: dict[tuple[int, str, tuple[int, int] | None], int] = {}
            for band in bands:
                for image in staged_scenes(rules[0].label, band, scenes):
                    for index, observer in enumerate(observers):
                        for path, reported in observer.reports(image, rules).items():
                            key = (index, path, band)
                            found[key] = found.get(key, 0) + reported
                    progress.advance(bar)
            rows += _rows(observers, rules[0].label, found, scenes)
    figures = {"scenes": scenes, "rows": [asdict(row) for row in rows]}
    return Report(_tables(rows, scenes), figures)


class Observer:
    """A bundle that looks at scenes, each as if it were the first."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the networks.

        Raises:
            ForeignBundleError: the bundle lacks a label or the language model.
        """
        require_road_world(bundle)
        self.bundle = bundle
        self._encoder = VisionEncoder(bundle)
        settings = ReasonerSettings(force_keyframes=True, max_caption_tokens=1)
        self._reasoner = Reasoner(LanguageService(bundle, settings))
        self._seen = 0

    def reports(self, image: NDArray[np.uint8], rules: tuple[Hazard, ...]) -> dict[str, bool]:
        """Whether the fast path alone, and both together, report the danger."""
        self._seen += 1
        embedding = self._encoder.encode(Frame(image, self._seen * TICK_NS), self._seen)
        reasoning = self._reasoner.reason(embedding)
        return {FAST: _fuse(embedding, None, rules), FUSED: _fuse(embedding, reasoning, rules)}


def _fuse(embedding: Embedding, reasoning: Reasoning | None, rules: tuple[Hazard, ...]) -> bool:
    fusion = SceneFusion(FusionSettings(hazards=rules), clock=lambda: 0.0)
    if reasoning is not None:
        fusion.add_reasoning(reasoning, 0.0)
    return bool(fusion.fuse(embedding, 0.0, embedding.stamp_ns).hazards)


def staged_scenes(
    label: str, band: tuple[int, int] | None, scenes: int
) -> Iterator[NDArray[np.uint8]]:
    """Pictures with one such road user in the lane within the band; without a band, with none."""
    shown = 0
    for seed in count(EXAM_SEED):
        if shown == scenes:
            return
        street = look(staged(seed, label, band), CAMERA_SIZE)
        objects = [each for each in street.truth.objects if each.label == label]
        if band is None or any(each.visible_share >= LEAST_VISIBLE for each in objects):
            shown += 1
            yield street.image


def staged(seed: int, label: str, band: tuple[int, int] | None) -> World:
    """A street of this seed without actors of the kind, except one in the lane on request."""
    world = sample_scene(seed)
    kind = VEHICLES if label in VEHICLES else (label,)
    others = [actor for actor in world.actors if actor.label not in kind]
    if band is None:
        return replace(world, actors=others)
    rng = np.random.default_rng((seed, 11))
    distance, middle = float(rng.uniform(*band)), world.road.ego_offset
    aside = float(rng.normal(0, 0.2) if label in VEHICLES else rng.uniform(-1.2, 1.2))
    clear = [a for a in others if abs(a.d - middle) > 2.0 or a.s > distance + 4.0]
    shown = Actor(label, assets.BUILDERS[label](rng), distance, middle + aside)
    return replace(world, actors=[*clear, shown])


def _name(band: tuple[int, int]) -> str:
    return f"{band[0]}-{band[1]} m"


def _rows(
    observers: Sequence[Observer],
    label: str,
    found: Mapping[tuple[int, str, tuple[int, int] | None], int],
    scenes: int,
) -> list[HazardRow]:
    return [
        HazardRow(
            bundle=observer.bundle.manifest.name,
            bundle_digest=observer.bundle.digest,
            tokens=observer.bundle.manifest.vision.tokens,
            hazard=label,
            path=path,
            recall={_name(band): found[index, path, band] / scenes for band in BANDS},
            false_alarms=found[index, path, None] / scenes,
        )
        for index, observer in enumerate(observers)
        for path in (FAST, FUSED)
    ]


def _tables(rows: Sequence[HazardRow], scenes: int) -> list[Table]:
    tables = []
    for label in dict.fromkeys(row.hazard for row in rows):
        table = Table(title=f"{label} in the lane: recall by distance, {scenes} scenes a band")
        for column in ("tokens", "path", *(_name(band) for band in BANDS), "false alarms"):
            table.add_column(column, justify="left" if column == "path" else "right")
        for row in rows:
            if row.hazard == label:
                figures = (*row.recall.values(), row.false_alarms)
                table.add_row(str(row.tokens), row.path, *(f"{figure:.2f}" for figure in figures))
        tables.append(table)
    return tables
