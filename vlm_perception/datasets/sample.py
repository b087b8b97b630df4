# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What every data set gives: images, each with what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec


@dataclass(frozen=True)
class Caption:
    """A sentence about an image."""

    text: str
    language: str
    """As BCP 47 has it, `en`."""


@dataclass(frozen=True)
class Sample:
    """An image and what is known of it; what is not known is left out."""

    image: NDArray[np.uint8]
    """RGB [height, width, 3]."""
    provenance: str
    """Where it comes from: a file, or what it was made of."""
    answers: Mapping[str, str]
    """A question's name -> the true choice."""
    labels: tuple[str, ...] = ()
    """What can be seen."""
    captions: tuple[Caption, ...] = ()
    """The best one first."""

    def present(self, labels: Sequence[str]) -> list[bool]:
        """Which of these labels hold."""
        return [label in self.labels for label in labels]

    def choices(self, questions: Sequence[QuestionSpec]) -> list[int]:
        """Index of the true choice of each question.

        Raises:
            KeyError: one is not answered.
        """
        return [question.choices.index(self.answers[question.name]) for question in questions]


S_co = TypeVar("S_co", bound=Sample, covariant=True)


class Dataset(Protocol[S_co]):
    """Samples in a fixed order, which can be gone through again and again."""

    @property
    def questions(self) -> Sequence[QuestionSpec]:
        """The typed questions that its samples answer, all or some."""

    def __len__(self) -> int:
        """Number of samples."""

    def __iter__(self) -> Iterator[S_co]:
        """Each sample is read, or made, when it is its turn."""
