# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The road world as a data set: streets, each with all that is true of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance
from vlm_perception.datasets.roadworld.renderer import Rendered
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.datasets.roadworld.truth import QUESTIONS, SceneTruth, captions, describe
from vlm_perception.datasets.roadworld.world import World
from vlm_perception.datasets.sample import Caption, Sample

TYPED_QUESTIONS = tuple(
    QuestionSpec(name=name, question=wording, choices=choices)
    for name, (wording, choices) in QUESTIONS.items()
)
CAMERA_SIZE = (1280, 720)


@dataclass(frozen=True, kw_only=True)
class Street(Sample):
    """A rendered street, with ground truth that only a rendered world has."""

    truth: SceneTruth
    """Its objects, with sizes and distances."""
    rendered: Rendered
    """Which object each pixel shows."""


class Streets:
    """A street for each seed; the same seed gives the same street."""

    questions = TYPED_QUESTIONS

    def __init__(
        self,
        seeds: range,
        size: tuple[int, int] = CAMERA_SIZE,
        small: float = 0.3,
        *,
        appearance: Appearance = PLAIN,
    ) -> None:
        """Render nothing yet.

        Args:
            seeds: one a street.
            size: width and height of the images in pixels.
            small: the share of small objects that is asked for.
            appearance: of streets and cameras.
        """
        self._seeds, self._size, self._small = seeds, size, small
        self._appearance = appearance

    def __len__(self) -> int:
        """Number of seeds."""
        return len(self._seeds)

    def __iter__(self) -> Iterator[Street]:
        """Render one after the other."""
        for seed in self._seeds:
            world = sample_scene(seed, self._small)
            yield look(world, self._size, appearance=self._appearance)


def look(
    world: World, size: tuple[int, int], time: float = 0.0, *, appearance: Appearance = PLAIN
) -> Street:
    """What the camera of a world sees.

    Args:
        world: a street and its actors.
        size: width and height of the image in pixels.
        time: in seconds, of a world that moves.
        appearance: of street and camera.
    """
    rendered = appearance.render(world, time, *size)
    truth = describe(world, rendered, time)
    wordings = captions(truth, np.random.default_rng((world.seed, 5)))
    return Street(
        image=rendered.image,
        provenance=f"road world, seed {world.seed}, {time:g} s",
        answers=truth.attributes,
        labels=truth.labels,
        captions=tuple(Caption(text, "en") for text in wordings),
        truth=truth,
        rendered=rendered,
    )
