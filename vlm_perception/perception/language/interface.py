# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the reasoner asks of a language model, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.picture import Picture
from vlm_perception.perception.language.token_sampling import GREEDY, Sampling
from vlm_perception.types import Attribute, Embedding


class Written(Protocol):
    """A text as far as it has been written."""

    @property
    def text(self) -> str:
        """From its beginning, without an unfinished character at the end."""
        ...

    @property
    def stops(self) -> bool:
        """Whether the model has ended it."""
        ...

    @property
    def log_probability(self) -> float | None:
        """Natural logarithm of the newest token's probability; None: the model does not say."""
        ...


class Finished(Protocol):
    """A text of which no more comes."""

    @property
    def text(self) -> str:
        """The whole of it."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the model ended it itself."""
        ...


class Packed(Protocol):
    """Questions that are ready to be put to a model."""

    @property
    def tokens(self) -> int:
        """Their length, which `AnalysisCost.questions_s` depends on."""
        ...


class Seen(Protocol):
    """A frame as a model has read it."""

    @property
    def tower_s(self) -> float:
        """Seconds that a vision tower of the model's own looked at it; 0: it has none here."""
        ...


SeenT = TypeVar("SeenT", bound=Seen)
PackedT = TypeVar("PackedT", bound=Packed)


class Language(Protocol[SeenT, PackedT]):
    """Reads a frame once, then answers and writes about it; for any thread."""

    @property
    def engine_name(self) -> str:
        """What runs it, for diagnostics."""
        ...

    @property
    def caption_prompt(self) -> str:
        """What asks for a caption."""
        ...

    @property
    def deadline_s(self) -> float:
        """The most seconds that an analysis may wait for it."""
        ...

    @property
    def shrinks_images(self) -> bool:
        """Whether `read` heeds its share."""
        ...

    def verify(self) -> None:
        """Check that it computes what it should.

        Raises:
            VlmPerceptionError: it does not.
        """
        ...

    def warm_up(self, packed: PackedT) -> None:
        """Make its first analysis as fast as the next ones."""
        ...

    def measure(self, packed: PackedT, question: Mapping[str, Any]) -> AnalysisCost:
        """Time an analysis of a blank image.

        Args:
            packed: the questions that are asked of each image.
            question: what the result depends on, to be kept with it.
        """
        ...

    def read(self, embedding: Embedding, share: float = 1.0) -> SeenT:
        """Read what there is of a frame for this model.

        Args:
            embedding: the frame.
            share: of the sides of an image that can be shrunk, to save work.

        Raises:
            VlmPerceptionError: it cannot be read.
        """
        ...

    def remember(self, seen: SeenT) -> None:
        """Take note that the frame has been analysed."""
        ...

    def alone(self, seen: SeenT) -> SeenT:
        """Return the frame without those before it, and with room for the longest answer."""
        ...

    def picture(self, seen: SeenT, source: tuple[int, int]) -> Picture:
        """Return the picture of a frame that coordinates in an answer refer to.

        Args:
            seen: the frame.
            source: width and height of the camera image.
        """
        ...

    def pack(self, questions: Sequence[QuestionSpec]) -> PackedT:
        """Lay questions out for `answer`; do it once for questions that stay.

        Raises:
            PromptError: a question cannot be put to this model.
        """
        ...

    def answer(
        self, seen: SeenT, packed: PackedT, *, wait_s: float | None = None
    ) -> tuple[Attribute, ...]:
        """Answer questions with one of their choices each.

        Args:
            seen: the frame.
            packed: the questions.
            wait_s: the most seconds to wait for a model that runs elsewhere.

        Raises:
            VlmPerceptionError: it cannot answer now.
        """
        ...

    def write(
        self,
        seen: SeenT,
        text: str,
        *,
        max_tokens: int,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Written]:
        """Answer a text, token by token, each when it is asked for.

        Args:
            seen: the frame.
            text: the question or instruction, taken literally.
            max_tokens: the most tokens to generate.
            wait_s: the most seconds to wait for a model that runs elsewhere.
            sampling: how tokens are chosen.

        Raises:
            PromptError: the text leaves no room for an answer.
            VlmPerceptionError: it cannot answer now.
        """
        ...

    def generate(
        self,
        seen: SeenT,
        text: str,
        *,
        max_tokens: int,
        budget_s: float | None = None,
        wait_s: float | None = None,
        sampling: Sampling = GREEDY,
    ) -> Finished:
        """Answer a text in one go.

        Args:
            seen: the frame.
            text: the question or instruction, taken literally.
            max_tokens: the most tokens to generate.
            budget_s: the most seconds to take; no limit when None.
            wait_s: the most seconds to wait for a model that runs elsewhere.
            sampling: how tokens are chosen.

        Raises:
            PromptError: the text leaves no room for an answer.
            VlmPerceptionError: it cannot answer now.
        """
        ...

    def check_prompt(self, text: str, reserve: int) -> None:
        """Refuse a text that leaves no room for `reserve` tokens of answer.

        Raises:
            PromptError: the text is too long or no valid Unicode.
        """
        ...
