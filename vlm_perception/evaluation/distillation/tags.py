# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Macro average precision of many bundles on the same scenes of the road world."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import CAMERA_SIZE, Streets
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.comparison.bootstrap import resample
from vlm_perception.evaluation.comparison.scored import Array
from vlm_perception.evaluation.distillation.seeds import BySeed
from vlm_perception.evaluation.distillation.study import StudyError
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.road_world import EXAM_SEED
from vlm_perception.evaluation.tasks.tag_figures import average_precision
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

BLOCK = 50
"""Scenes that are kept together, once all are judged."""
CHANCE = "chance"
"""Macro average precision without skill: the mean share of scenes that a label is in."""


class TagExam:
    """Scores of bundles on scenes, each kept on disk once it is known."""

    def __init__(self, scenes: int, folder: Path) -> None:
        """Examine nothing yet.

        Args:
            scenes: how many.
            folder: keeps the scores; it exists.
        """
        self._scenes, self._folder = scenes, folder

    def scores(
        self, bundles: Mapping[str, ModelBundle]
    ) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """Scores [scenes, labels] of each bundle, and which labels are there, [scenes, labels].

        A scene is rendered once for all bundles that have not seen it yet.

        Raises:
            StudyError: a bundle lacks a label of the road world.
            BundleError: it lacks a file.
        """
        columns = {name: _columns(name, bundle) for name, bundle in bundles.items()}
        with ExitStack() as stack, Progress(transient=True) as progress:
            truth = stack.enter_context(Journal.named(self._folder, "scenes", {}))
            journals = {
                name: stack.enter_context(
                    Journal.named(self._folder, name, {"bundle": bundle.digest})
                )
                for name, bundle in bundles.items()
            }
            encoders: dict[str, VisionEncoder] = {}
            bar = progress.add_task("Evaluating", total=self._scenes)
            keys = []
            for first in range(0, self._scenes, BLOCK):
                seeds = range(EXAM_SEED + first, EXAM_SEED + min(self._scenes, first + BLOCK))
                key = f"{seeds.start}-{seeds.stop}"
                keys.append(key)
                lacking = [name for name in bundles if key not in journals[name].items]
                if lacking or key not in truth.items:
                    for name in set(lacking) - encoders.keys():
                        encoders[name] = VisionEncoder(bundles[name], threads=1)
                    asked = {name: (encoders[name], columns[name]) for name in lacking}
                    there, found = _look(seeds, asked)
                    truth.add(key, there)
                    for name, rows in found.items():
                        journals[name].add(key, rows)
                progress.advance(bar, len(seeds))
            present = np.concatenate([np.array(truth.items[key], bool) for key in keys])
            return {
                name: np.concatenate([np.array(journal.items[key], np.float64) for key in keys])
                for name, journal in journals.items()
            }, present


def _columns(name: str, bundle: ModelBundle) -> list[int]:
    known = bundle.manifest.vocabulary.names
    missing = [label for label in LABELS if label not in known]
    if missing:
        raise StudyError(
            f"{name} was not trained for the road world: it lacks the labels {', '.join(missing)}"
        )
    return [known.index(label) for label in LABELS]


def _look(
    seeds: range, asked: Mapping[str, tuple[VisionEncoder, list[int]]]
) -> tuple[list[list[int]], dict[str, list[list[float]]]]:
    """What is there in each scene, and each encoder's scores."""
    there: list[list[int]] = []
    found: dict[str, list[list[float]]] = {name: [] for name in asked}
    for street in Streets(seeds, CAMERA_SIZE):
        there.append([int(label in street.truth.shares) for label in LABELS])
        for name, (encoder, columns) in asked.items():
            pooled = encoder.encode(Frame(street.image, 0), 0).pooled
            found[name].append([float(score) for score in encoder.scores(pooled)[columns]])
    return there, found


def macro_ap(
    scores: Mapping[str, Array], present: NDArray[np.bool_], replicates: int
) -> dict[str, BySeed]:
    """Macro average precision of each model, and `chance`, of all images and of drawn ones.

    Args:
        scores: [images, labels] of each model.
        present: [images, labels].
        replicates: how often images are drawn; the same ones for all.
    """

    def figures(weights: Array) -> dict[str, Array]:
        precision = {
            name: _mean_over_labels(
                [average_precision(of[:, i], there, weights) for i, there in enumerate(present.T)]
            )
            for name, of in scores.items()
        }
        share = weights @ present[:, told] / weights.sum(axis=1, keepdims=True)
        return {**precision, CHANCE: share.mean(axis=1)}

    # Of a label that is everywhere, or nowhere, there is no average precision.
    told = present.any(axis=0) & ~present.all(axis=0)

    whole, drawn = resample(figures, len(present), replicates)
    return {name: BySeed(np.array([whole[name]]), drawn[name][np.newaxis]) for name in whole}


def _mean_over_labels(values: list[Array]) -> Array:
    return np.asarray(np.nanmean(np.stack(values), axis=0), np.float64)
