# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What writes captions, wherever its model runs, and what comes of asking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.language.token_sampling import Sampling

ENGLISH = "Describe in one sentence what the image shows, the most important first."


@dataclass(frozen=True)
class Answer:
    """What a model has written."""

    text: str
    ended: bool
    """Whether the model ended it; else it was cut off at the limit of tokens."""


class NoAnswerError(VlmPerceptionError):
    """Nothing whole came of a request; the message says why."""

    def __init__(
        self, kind: str, message: str, *, again: bool, absent: bool, wait_s: float = 0.0
    ) -> None:
        """Describe it.

        Args:
            kind: in a few words, the same for all of its kind.
            message: one sentence.
            again: whether the same request may be answered later.
            absent: whether it says nothing about the image: no captioner is there.
            wait_s: how long it asks to be left alone.
        """
        super().__init__(message)
        self.kind, self.again, self.absent, self.wait_s = kind, again, absent, wait_s


class Writer(Protocol):
    """Writes one text about one image at a time; thread-safe."""

    @property
    def by(self) -> str:
        """Its model's name in records."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else of it the answers depend on, as JSON."""
        ...

    @property
    def english(self) -> str:
        """What asks for a caption in English, where the recipe does not say."""
        ...

    @property
    def slots(self) -> int:
        """Requests at once."""
        ...

    def check(self, prompt: str) -> None:
        """Refuse a prompt that the model cannot read.

        Raises:
            CurationError: it cannot.
        """
        ...

    def write(self, image: NDArray[np.uint8], prompt: str, sampling: Sampling) -> Answer:
        """Answer a prompt about an image.

        Args:
            image: uint8 RGB, [height, width, 3].
            prompt: in any language that `check` lets pass.
            sampling: how tokens are drawn.

        Raises:
            NoAnswerError: no answer came.
            CurationError: none can come before the recipe is corrected.
        """
        ...

    def interrupt(self) -> None:
        """End the requests that are being answered, with NoAnswerError for who waits."""
        ...
