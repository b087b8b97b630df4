# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the batches of a student's training: views of images in an order that the seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm_perception.training.distillation.examples import Example, Images, View
from vlm_perception.training.distillation.losses.batch import TrueTargets
from vlm_perception.training.distillation.losses.true import true_targets

READERS = 2
EASY_STEPS = 10
"""One of so many steps sees easy images alone."""


@dataclass(frozen=True)
class Place:
    """One view of one image."""

    image: int
    view: int


@dataclass(frozen=True)
class Batch:
    """The views that one process sees in one step."""

    places: Sequence[Place]
    examples: Sequence[Example]
    captions: Sequence[str]
    """One of each view's, drawn."""

    @property
    def pixels(self) -> Tensor:
        """uint8 [B, H, W, 3]."""
        return torch.from_numpy(np.stack([each.image for each in self.examples]))

    def true(self) -> TrueTargets:
        """The road world's truth."""
        truths = [each.truth for each in self.examples if each.truth is not None]
        places = len(truths), truths[0].distance.size
        return true_targets(
            np.stack([each.labels for each in truths]),
            np.stack([each.attributes for each in truths]),
            np.stack([each.coverage for each in truths]).reshape(*places, -1),
            np.stack([each.distance for each in truths]).reshape(places),
        )


class Batches:
    """The batches of each step; reads the next ones while a step is computed."""

    def __init__(
        self,
        images: Images,
        views: Callable[[int], Sequence[View]],
        size: tuple[int, int],
        grid: tuple[int, int],
        order: Sequence[Sequence[Place]],
        seed: int,
    ) -> None:
        """Read nothing yet.

        Args:
            images: the source.
            views: those of an image.
            size: width and height of what the student sees.
            grid: its columns and rows of patches.
            order: what is seen in each step.
            seed: of the captions that are drawn.
        """
        self._images, self._views, self._size, self._grid = images, views, size, grid
        self._order, self._seed = order, seed
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._coming: dict[int, list[Future[Example]]] = {}

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            VlmPerceptionError: an image cannot be read.
        """
        for ahead in (step, step + 1):
            if ahead < len(self._order) and ahead not in self._coming:
                self._coming[ahead] = [
                    self._pool.submit(self._read, place) for place in self._order[ahead]
                ]
        places, coming = self._order[step], self._coming.pop(step)
        examples = [each.result() for each in coming]
        texts = [
            self._drawn(step, place, each.captions)
            for place, each in zip(places, examples, strict=True)
        ]
        return Batch(places, examples, texts)

    def _drawn(self, step: int, place: Place, captions: Sequence[str]) -> str:
        """One of a view's captions, whichever process reads it."""
        rng = np.random.default_rng((self._seed, 7, step, place.image, place.view))
        return captions[int(rng.integers(len(captions)))] if captions else ""

    def close(self) -> None:
        """Stop the readers."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, place: Place) -> Example:
        view = self._views(place.image)[place.view]
        return self._images.example(place.image, view, self._size, self._grid)


def order(
    images: int, views: int, batch: int, steps: int, seed: int, easy: int = 0
) -> Iterator[list[Place]]:
    """What is seen in each step: every image once an epoch, in a view that is drawn.

    Args:
        images: how many there are.
        views: of each.
        batch: images of a step, over all processes.
        steps: how many.
        seed: of the order.
        easy: images that come first, which the first tenth of the steps sees alone (Bengio et al.,
            Curriculum Learning, 2009).
    """
    rng = np.random.default_rng((seed, 6))
    first = steps // EASY_STEPS if easy else 0
    for known, count in ((easy, first), (images, steps - first)):
        queue: list[Place] = []
        for _ in range(count):
            while len(queue) < batch:
                drawn = rng.integers(views, size=known)
                queue += [Place(int(i), int(drawn[i])) for i in rng.permutation(known)]
            yield queue[:batch]
            queue = queue[batch:]


def resampled(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """A teacher's patches [B, rows, columns, T] at the places of a grid: [B, places, T]."""
    columns, rows = grid
    if patches.shape[1:3] == (rows, columns):
        return patches.flatten(1, 2)
    there = torch.nn.functional.interpolate(
        patches.permute(0, 3, 1, 2), size=(rows, columns), mode="bilinear", align_corners=False
    )
    return torch.nn.functional.normalize(there.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
