# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes from patches: where in the image a label holds."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.perception.preprocess import Placement
from vlm_perception.perception.vision.vocabulary import Vocabulary
from vlm_perception.types import FUSED_TOKEN, Region

MOST_REGIONS_PER_LABEL = 8


def find_regions(
    patches: NDArray[np.float32],
    token_index: NDArray[np.uint16],
    labels: Sequence[int],
    vocabulary: Vocabulary,
    image: ImageSpec,
    placement: Placement,
) -> tuple[Region, ...]:
    """Group neighbouring patches that agree with a label.

    A patch that the vision graph dropped counts as one that does not agree: if it was between two
    parts of an object, these become two regions. A fused token has no position and is ignored.

    Args:
        patches: [K, D], patch embeddings in text space.
        token_index: [K], place of each in the grid, row-major; FUSED_TOKEN for a fused one.
        labels: the labels to look for, those that the whole image shows.
        vocabulary: gives the thresholds for patches.
        image: the graph's image and its grid.
        placement: where the camera image is in it.

    Returns:
        Boxes in pixels of the camera image, for each label the likeliest first.
    """
    if not labels:
        return ()
    placed = token_index != FUSED_TOKEN
    probabilities = vocabulary.probabilities(patches[placed])
    # Below any threshold, which may be 0.
    cells = np.full((image.rows * image.columns, len(vocabulary.labels)), -1.0, np.float32)
    cells[token_index[placed]] = probabilities
    scores = cells.reshape(image.rows, image.columns, -1)
    regions: list[Region] = []
    for label in labels:
        found = _components(scores[:, :, label], float(vocabulary.region_thresholds[label]))
        found.sort(key=lambda item: -item[0])
        for score, (left, top, across, down) in found[:MOST_REGIONS_PER_LABEL]:
            x, y, width, height = placement.to_source(
                (
                    left * image.patch,
                    top * image.patch,
                    across * image.patch,
                    down * image.patch,
                )
            )
            if width > 0 and height > 0:
                name = vocabulary.labels[label]
                regions.append(Region(label, name, score, x, y, width, height))
    return tuple(regions)


def _components(
    scores: NDArray[np.float32], threshold: float
) -> list[tuple[float, tuple[int, int, int, int]]]:
    """Best score and box in cells of each group of cells above a threshold."""
    mask = (scores >= threshold).astype(np.uint8)
    if not mask.any():
        return []
    count, marks, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return [
        (
            float(scores[marks == index].max()),
            (
                int(stats[index, cv2.CC_STAT_LEFT]),
                int(stats[index, cv2.CC_STAT_TOP]),
                int(stats[index, cv2.CC_STAT_WIDTH]),
                int(stats[index, cv2.CC_STAT_HEIGHT]),
            ),
        )
        for index in range(1, count)
    ]
