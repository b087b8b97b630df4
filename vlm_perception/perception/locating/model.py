# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Where a phrase is, as a language model writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic

from vlm_perception.perception.language.interface import Language, PackedT, SeenT
from vlm_perception.perception.language.picture import Picture
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import BoxFormat, PictureBox, quoted
from vlm_perception.perception.locating.phrase import plain_phrase
from vlm_perception.types import Embedding, LocatedBox

BUNDLE_BUDGET_S = 10.0
"""Seconds that a bundle's model may write to who waits for it: as long as a served one may take."""


class ModelLocator(Generic[SeenT, PackedT]):
    """Asks a language model, the bundle's or a served one; for any thread."""

    def __init__(
        self,
        language: Language[SeenT, PackedT],
        boxes: BoxFormat,
        *,
        read: Callable[[Embedding], SeenT] | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            language: the model.
            boxes: how it writes them.
            read: what reads a frame for it, where that may have been done before; `language.read`
                when None.
        """
        self._language, self._format = language, boxes
        self._read = read or language.read

    @property
    def format_name(self) -> str:
        """How the model writes boxes."""
        return self._format.name

    def locate(
        self,
        embedding: Embedding,
        phrase: str,
        *,
        budget_s: float | None = None,
        wait_s: float | None = None,
    ) -> tuple[LocatedBox, ...]:
        """Ask where a phrase is in a frame.

        Args:
            embedding: the frame, with what the language model reads.
            phrase: what to look for, with words of place, if any.
            budget_s: the most seconds to write; no limit when None.
            wait_s: the most seconds to wait for a model that runs elsewhere.

        Returns:
            Boxes in the order in which the model wrote them, with a score that is not known; none,
            where it says that there is no such thing.

        Raises:
            LocateError: the phrase cannot be looked for, or what the model wrote is anything but
                boxes in the image, or was cut off; the message shows it.
            VlmPerceptionError: the model cannot answer now, or has no room for it.
        """
        language, boxes = self._language, self._format
        prompt = boxes.prompt(plain_phrase(phrase))
        seen = language.alone(self._read(embedding))
        picture = language.picture(seen, embedding.image_size)
        if not picture.processed:
            picture = picture.resized(boxes.resized(picture.size))
        answer = language.generate(
            seen, prompt, max_tokens=boxes.most_tokens, budget_s=budget_s, wait_s=wait_s
        )
        written = boxes.parse(answer.text, picture.size, truncated=not answer.finished)
        return tuple(_located(box, picture, answer.text) for box in written)


def _located(box: PictureBox, picture: Picture, text: str) -> LocatedBox:
    """A box in the camera image.

    Raises:
        LocateError: it is in what was filled up around that.
    """
    left, top, right, bottom = picture.to_source(box)
    if not (left < right and top < bottom):
        raise LocateError(
            "the language model wrote a box beside the camera's image, in the padding around it: "
            f"{quoted(text)}; try another phrase, or the method patch"
        )
    return LocatedBox(left, top, right - left, bottom - top, math.nan)
