# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What is learned from: images in views, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.training.distillation.learned import Learned
from vlm_perception.training.distillation.recipe import Views


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
    captioned: bool
    """Whether some of them have captions."""
    learned: Learned
    """What whoever learns from them has learned from."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """Of an image, for people."""

    def picture(self, index: int, view: View) -> NDArray[np.uint8]:
        """A view in full resolution, RGB [H, W, 3], as a teacher is given it.

        Raises:
            VlmPerceptionError: the image cannot be read; the text says where it is.
        """

    def captions(self, index: int, view: View) -> tuple[str, ...]:
        """Captions of an image that are true of a view."""

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


def draw_views(seed: int, index: int, views: Views) -> Sequence[View]:
    """The views of an image; the same numbers give the same views.

    Without crops there is nothing but the whole image, and its mirror image; with crops and several
    views the first one shows all.

    Args:
        seed: of the run.
        index: of the image.
        views: as the recipe wants them.
    """
    rng = np.random.default_rng((seed, 11, index))
    drawn = []
    for number in range(views.count):
        whole = number == 0 and views.count > 1
        scale = 1.0 if whole else float(np.sqrt(rng.uniform(views.least_scale, 1.0)))
        left, top = (1 - scale) * rng.random(2)
        mirrored = views.mirror and bool(rng.random() < 0.5)
        gain = float(1 + views.gain * rng.uniform(-1, 1))
        drawn.append(View(float(left), float(top), scale, mirrored, gain))
    return drawn
