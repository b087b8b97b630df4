# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Macro average precision of many bundles on the same scenes of the road world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import Street
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.comparison.bootstrap import resample
from vlm_perception.evaluation.comparison.scored import Array
from vlm_perception.evaluation.distillation.exam import Examined, examine
from vlm_perception.evaluation.distillation.seeds import BySeed
from vlm_perception.evaluation.distillation.study import StudyError
from vlm_perception.evaluation.tasks.tag_figures import average_precision
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

CHANCE = "chance"
"""Macro average precision without skill: the mean share of scenes that a label is in."""


def tag_scores(
    bundles: Mapping[str, ModelBundle], scenes: int, folder: Path
) -> tuple[dict[str, Array], NDArray[np.bool_]]:
    """Scores [scenes, labels] of each bundle, and which labels are there, [scenes, labels].

    Args:
        bundles: by name.
        scenes: how many.
        folder: keeps the scores; it exists.

    Raises:
        StudyError: a bundle lacks a label of the road world.
        BundleError: it lacks a file.
    """
    for name, bundle in bundles.items():
        missing = [each for each in LABELS if each not in bundle.manifest.vocabulary.names]
        if missing:
            raise StudyError(
                f"{name} was not trained for the road world: it lacks the labels "
                f"{', '.join(missing)}"
            )
    scores, present = examine("tags", bundles, _tagger, _present, scenes, folder)
    return (
        {name: np.array(rows, np.float64) for name, rows in scores.items()},
        np.array(present, np.bool_),
    )


def _tagger(bundle: ModelBundle) -> Examined:
    encoder = VisionEncoder(bundle, threads=1)
    columns = [bundle.manifest.vocabulary.names.index(label) for label in LABELS]

    def scores(street: Street) -> list[float]:
        pooled = encoder.encode(Frame(street.image, 0), 0).pooled
        return [float(score) for score in encoder.scores(pooled)[columns]]

    return scores


def _present(street: Street) -> list[int]:
    return [int(label in street.truth.shares) for label in LABELS]


def macro_ap(
    scores: Mapping[str, Array], present: NDArray[np.bool_], replicates: int
) -> dict[str, BySeed]:
    """Macro average precision of each model, and `chance`, of all images and of drawn ones.

    Args:
        scores: [images, labels] of each model.
        present: [images, labels].
        replicates: how often images are drawn; the same ones for all.
    """
    # Of a label that is everywhere, or nowhere, there is no average precision.
    told = present.any(axis=0) & ~present.all(axis=0)

    def figures(weights: Array) -> dict[str, Array]:
        precision = {
            name: _mean_over_labels(
                [average_precision(of[:, i], present[:, i], weights) for i in np.flatnonzero(told)]
            )
            for name, of in scores.items()
        }
        share = weights @ present[:, told] / weights.sum(axis=1, keepdims=True)
        return {**precision, CHANCE: share.mean(axis=1)}

    return by_name(*resample(figures, len(present), replicates))


def by_name(whole: Mapping[str, float], drawn: Mapping[str, Array]) -> dict[str, BySeed]:
    """Figures and their replicates as those of one seed each."""
    return {name: BySeed(np.array([whole[name]]), drawn[name][np.newaxis]) for name in whole}


def _mean_over_labels(values: list[Array]) -> Array:
    return np.asarray(np.nanmean(np.stack(values), axis=0), np.float64)
