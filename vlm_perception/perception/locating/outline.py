# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The outline of a thing that is only known to the size of a patch, from the colours of pixels.

Colours that are frequent where the thing is likely and rare around it are the thing's: histograms
of both weigh each pixel, as the region terms of GrabCut do (Rother, Kolmogorov and Blake, 2004),
here without the graph cut. Around it is also the rest of the image: a road or a wall that fills the
patches of a thing is seen elsewhere, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""x, y, width, height."""

ROUNDS = 2
"""The second one learns the colours from what the first has found."""
BLUR = 1.0
CORE = 0.5
"""The thing's core: weights from this share of the highest on, after the last round."""
AROUND = 0.35
"""The core grows to what the first round gave this share or more, ..."""
GROWS = 0.5
"""... on each side by no more than this share of its size: weak weights may leak."""
ELSEWHERE = 0.07
"""How much a pixel anywhere in the image counts, relative to one beside the thing."""


@dataclass(frozen=True)
class Outline:
    """A thing in a part of an image, in pixels of the part."""

    box: Box
    core: NDArray[np.bool_]
    """[height, width]."""
    weights: NDArray[np.float32]
    """[height, width], how likely each pixel is the thing's by place and colour, up to 1."""

    @property
    def at_centre(self) -> float:
        """How likely the centre of the box is on the thing, up to 1."""
        x, y, width, height = self.box
        rows, columns = self.weights.shape
        row, column = min(y + height // 2, rows - 1), min(x + width // 2, columns - 1)
        return float(self.weights[row, column])


def outline(
    likely: NDArray[np.float32], bins: NDArray[np.intp], elsewhere: NDArray[np.float64]
) -> Outline:
    """Find the thing in a part of an image.

    Args:
        likely: [height, width], how likely each pixel is the thing's, up to 1, with a peak on it.
        bins: [height, width], number of each pixel's colour.
        elsewhere: [colours], pixels of each colour in the whole image that are no such thing's.
    """
    flat, weights, first = bins.ravel(), likely, likely
    for number in range(ROUNDS):
        inside = np.bincount(flat, weights.ravel(), len(elsewhere))
        around = np.bincount(flat, (1.0 - weights).ravel(), len(elsewhere)) + ELSEWHERE * elsewhere
        share = inside / np.maximum(inside + around, 1e-6)
        weights = cv2.GaussianBlur((likely * share[bins]).astype(np.float32), (0, 0), BLUR)
        weights = weights / max(float(weights.max()), 1e-6)
        first = weights if number == 0 else first
    core, mask = heaviest(weights, CORE)
    return Outline(_grown(core, mask, first), mask, weights)


def heaviest(weights: NDArray[np.float32], level: float) -> tuple[Box, NDArray[np.bool_]]:
    """Box and pixels of the connected part above a level whose weights add up to most."""
    _, marks, stats, _ = cv2.connectedComponentsWithStats((weights >= level).astype(np.uint8))
    mass = np.bincount(marks.ravel(), weights.ravel())
    mass[0] = -1.0
    part = int(mass.argmax())
    return _box(stats[part]), marks == part


def _grown(core: Box, mask: NDArray[np.bool_], weights: NDArray[np.float32]) -> Box:
    """The core's box, grown within bounds to the weak part that it shares most pixels with."""
    _, marks, stats, _ = cv2.connectedComponentsWithStats((weights >= AROUND).astype(np.uint8))
    shared = np.bincount(marks[mask], minlength=len(stats))
    shared[0] = 0
    if not shared.any():
        return core
    return grown(core, _box(stats[int(shared.argmax())]))


def grown(box: Box, towards: Box) -> Box:
    """A box grown to take in another one, on each side by no more than GROWS of its size."""
    x, y, width, height = box
    u, v, across, down = towards
    aside, above = round(width * GROWS), round(height * GROWS)
    left, top = max(x - aside, min(x, u)), max(y - above, min(y, v))
    right = min(x + width + aside, max(x + width, u + across))
    bottom = min(y + height + above, max(y + height, v + down))
    return left, top, right - left, bottom - top


def _box(stats: NDArray[np.int32]) -> Box:
    x, y, width, height = (int(value) for value in stats[:4])
    return x, y, width, height
