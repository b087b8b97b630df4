# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint was trained on, so that no teacher is asked about what it remembers.

A teacher's outputs on its own training images are nearer to the labels that it was given than its
outputs on others: a student that learns from them learns the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_perception.bundle.manifest import describe_errors
from vlm_perception.training.distillation.recipe import DistillationError

FILE = "training.json"
DIGITS = 16
"""Of an image's SHA-256 that are noted."""


class Learned(BaseModel):
    """Content of training.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], ...] = ()
    """Of the road world: each first one, and the one behind the last."""
    images: frozenset[str] = frozenset()
    """First digits of the SHA-256 of files."""

    def __or__(self, other: Learned) -> Learned:
        """Both together."""
        seeds = tuple(dict.fromkeys((*self.seeds, *other.seeds)))
        return Learned(seeds=seeds, images=self.images | other.images)

    def write(self, folder: Path) -> None:
        """Write it beside a checkpoint's parts."""
        ordered = self.model_copy(update={"images": sorted(self.images)})
        (folder / FILE).write_text(ordered.model_dump_json(indent=1, warnings=False) + "\n")


@dataclass(frozen=True)
class Overlap:
    """What a checkpoint has seen of some images."""

    count: int
    example: str


def read_learned(dual: Path) -> Learned | None:
    """What a model was trained on; None: its checkpoint does not say.

    Args:
        dual: its folder; training.json is there, or beside `dual` and `vlm`.

    Raises:
        DistillationError: the file is damaged.
    """
    for file in (dual / FILE, dual.parent / FILE):
        if file.is_file() and (file.parent == dual or dual.name in ("dual", "vlm")):
            try:
                return Learned.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                why = describe_errors(error) if isinstance(error, ValidationError) else error
                raise DistillationError(f"{file} cannot be used: {why}") from error
    return None


def overlap(known: Learned, asked: Learned) -> Overlap | None:
    """What of the images that are asked about was learned from; None: nothing."""
    both = known.images & asked.images
    if both:
        return Overlap(len(both), f"the one whose SHA-256 begins with {min(both)}")
    for first, end in asked.seeds:
        for known_first, known_end in known.seeds:
            start, stop = max(first, known_first), min(end, known_end)
            if start < stop:
                return Overlap(stop - start, f"the road world's seeds {start} to {stop - 1}")
    return None
