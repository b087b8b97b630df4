# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is learned from: images in views, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """A part of an image that is looked at; all numbers are stored, so that it can be again."""

    left: float = 0.0
    """Of the part within the image, as shares of its width and height."""
    top: float = 0.0
    scale: float = 1.0
    """Width of the part over that of the image, and height over height."""
    mirrored: bool = False
    gain: float = 1.0
    """What brightness is multiplied by."""


@dataclass(frozen=True)
class Truth:
    """What a rendered world knows of a view."""

    labels: NDArray[np.bool_]
    """[labels], those of the world, in its order."""
    attributes: NDArray[np.uint8]
    """[questions]: index of the true choice."""
    coverage: NDArray[np.uint8]
    """[rows, columns, object labels]: percent of each patch."""
    distance: NDArray[np.float32]
    """[rows, columns]: metres to the nearest object in each patch; NaN without one."""


@dataclass(frozen=True)
class Example:
    """A view of an image as the student sees it."""

    name: str
    image: NDArray[np.uint8]
    """RGB [height, width, 3]."""
    captions: tuple[str, ...]
    """True of the view."""
    truth: Truth | None


class Images(Protocol):
    """A source of images in a fixed order."""

    digest: str
    """Of all that they are: stored outputs of a teacher belong to it."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """Of an image, for people."""

    def picture(self, index: int, view: View) -> NDArray[np.uint8]:
        """A view in full resolution, RGB [H, W, 3], as a teacher is given it.

        Raises:
            VlmPerceptionError: the image cannot be read; the text says where it is.
        """

    def example(
        self, index: int, view: View, size: tuple[int, int], grid: tuple[int, int]
    ) -> Example:
        """A view for a student.

        Args:
            index: of the image.
            view: the part of it.
            size: width and height.
            grid: columns and rows of patches, which the truth is given for.

        Raises:
            VlmPerceptionError: the image cannot be read; the text says where it is.
        """


def draw_views(
    seed: int, index: int, count: int, least_scale: float, mirror: bool, gain: float
) -> Sequence[View]:
    """The views of an image; the same numbers give the same views.

    Args:
        seed: of the run.
        index: of the image.
        count: of views.
        least_scale: least share of the area.
        mirror: whether half of them are mirrored.
        gain: most that brightness differs.
    """
    rng = np.random.default_rng((seed, 11, index))
    views = []
    for _ in range(count):
        scale = float(np.sqrt(rng.uniform(least_scale, 1.0)))
        left, top = (1 - scale) * rng.random(2)
        mirrored = mirror and bool(rng.random() < 0.5)
        views.append(
            View(float(left), float(top), scale, mirrored, float(1 + gain * rng.uniform(-1, 1)))
        )
    return views
