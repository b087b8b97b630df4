# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A curated set in a random order that can be broken off and gone on with anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from vlm_perception.datasets.final_set import FinalImage, FinalSetError, FinalSplit

BUFFER = 4096


class Shuffled:
    """The images of a split, epoch after epoch: an iterator with a position.

    Each epoch takes the shards in an order of its own, and gives what comes next of them in a
    random order within a buffer, so that few shards are read from at a time. The buffer has
    places alone, no images.
    """

    def __init__(
        self,
        split: FinalSplit,
        *,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin, or go on where an earlier one was.

        Args:
            split: gives the images, at least one.
            seed: of the order.
            state: of an earlier one, with the same split and seed.

        Raises:
            FinalSetError: the split has no images, or the state is another's.
        """
        if not len(split):
            raise FinalSetError(f"{split.folder / split.split} has no images; add some")
        self._split, self._seed = split, seed
        self._options: dict[str, Any] = {
            "set": split.contents.digest,
            "split": split.split,
            "seed": seed,
        }
        self._epoch, self._given = self._position(state)
        self._places = self._from(self._epoch, self._given)

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

    def _from(self, first: int, given: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
        images = [shard.images for shard in self._split.shards]
        for epoch in count(first):
            order = places(images, f"{self._seed} {epoch}")
            for number, place in enumerate(islice(order, given, None), given + 1):
                yield epoch, number, place
            given = 0


def places(images: Sequence[int], seed: str, buffer: int = BUFFER) -> Iterator[tuple[int, int]]:
    """Each image once, in a random order: the number of its shard and its place there.

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
