# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A curated set in an order by chance that can be broken off and gone on with anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from vlm_perception.datasets.final_set import FinalImage, FinalSetError, FinalSplit

BUFFER = 4096


class Shuffled:
    """The images of a split, epoch after epoch: an iterator with a position.

    Each epoch takes the shards in an order of its own, and gives what comes next of them in an
    order by chance within a buffer, so that few shards are read from at a time. The buffer has
    places alone, no images. Several workers share one order: each takes every so many-th image.
    """

    def __init__(
        self,
        split: FinalSplit,
        *,
        seed: int = 0,
        epochs: int | None = None,
        buffer: int = BUFFER,
        worker: int = 0,
        workers: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin, or go on where an earlier one was.

        Args:
            split: gives the images.
            seed: of the order.
            epochs: how many; None: without end.
            buffer: images within which neighbours change places.
            worker: which of the workers this is, from 0 on.
            workers: how many there are.
            state: of an earlier one, with the same split and options.

        Raises:
            FinalSetError: the split has too few images, or the state is another's.
        """
        if len(split) < workers:
            raise FinalSetError(
                f"{split.folder / split.split} has {len(split)} images for {workers} workers; add "
                "images or take fewer workers"
            )
        self._split = split
        self._seed, self._buffer, self._worker, self._workers = seed, buffer, worker, workers
        self._options: dict[str, Any] = {
            "set": split.contents.digest,
            "split": split.split,
            "seed": seed,
            "buffer": buffer,
            "worker": worker,
            "workers": workers,
        }
        self._epoch, self._given = self._position(state)
        self._places = self._from(self._epoch, self._given, epochs)

    def __iter__(self) -> Shuffled:
        """It is an iterator."""
        return self

    def __next__(self) -> FinalImage:
        """The next image.

        Raises:
            FinalSetError: its shard is missing, damaged or was altered.
        """
        epoch, given, place = next(self._places)
        image = self._split.image(*place)
        self._epoch, self._given = epoch, given
        return image

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON: after the image that was given last."""
        return {**self._options, "epoch": self._epoch, "given": self._given}

    def _position(self, state: Mapping[str, Any] | None) -> tuple[int, int]:
        if state is None:
            return 0, 0
        for name, value in self._options.items():
            if state.get(name) != value:
                raise FinalSetError(
                    f"the position is of another {name} ({state.get(name)!r} in place of "
                    f"{value!r}); begin anew, or go on with the same"
                )
        return int(state["epoch"]), int(state["given"])

    def _from(
        self, first: int, given: int, epochs: int | None
    ) -> Iterator[tuple[int, int, tuple[int, int]]]:
        images = [shard.images for shard in self._split.shards]
        for epoch in count(first) if epochs is None else range(first, epochs):
            order = places(images, f"{self._seed} {epoch}", self._buffer)
            mine = islice(order, self._worker, None, self._workers)
            for number, place in enumerate(islice(mine, given, None), given + 1):
                yield epoch, number, place
            given = 0


def places(images: Sequence[int], seed: str, buffer: int) -> Iterator[tuple[int, int]]:
    """Each image once, in an order by chance: the number of its shard and its place there.

    Args:
        images: how many each shard has.
        seed: of the order.
        buffer: images within which neighbours change places.
    """
    chance = random.Random(seed)
    shards = list(range(len(images)))
    chance.shuffle(shards)
    held: list[tuple[int, int]] = []
    for shard in shards:
        for place in range(images[shard]):
            if len(held) < buffer:
                held.append((shard, place))
                continue
            at = chance.randrange(buffer)
            yield held[at]
            held[at] = (shard, place)
    chance.shuffle(held)
    yield from held
