# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle describing images, and what it names meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.object_mentions import ObjectNames
from vlm_perception.evaluation.hallucination.coarse_input import CoarseBundle
from vlm_perception.evaluation.hallucination.figures import SCALES
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.question_answering import Description
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame

THREADS = 2


@dataclass(frozen=True)
class Written:
    """A caption, and the labels that it named while it was written."""

    text: str
    finished: bool
    """Whether the model ended it; else it is published with dots at its end."""
    final: tuple[str, ...]
    """Those in the whole of it."""
    partial: tuple[str, ...]
    """Those in what ~/describe showed before it was finished, even if only for a moment."""
    cut: tuple[str, ...]
    """Those in any caption that a deadline or a limit of tokens would have left of it."""


class Describer:
    """A bundle's encoder and language model, as language_reasoner runs them."""

    def __init__(self, bundle: ModelBundle, names: ObjectNames) -> None:
        """Load the networks.

        Args:
            bundle: the model.
            names: what is looked for in the texts.

        Raises:
            BundleError: it has no language model, or lacks a file.
        """
        coarse = CoarseBundle.of(bundle)
        self._coarseness, self._names = coarse.coarseness, names
        self._service = LanguageService(coarse, threads=THREADS, questions=())
        self._encoder = VisionEncoder(coarse, threads=THREADS, temporal=False)
        self._frames = 0

    def describe(self, image: NDArray[np.uint8]) -> dict[str, Written]:
        """Describe an image at each scale of the towers' input.

        Args:
            image: RGB [height, width, 3].

        Raises:
            FrameError: the array is no such image.
        """
        written = {}
        try:
            for scale, divisor in SCALES.items():
                self._coarseness.divisor = divisor
                embedding = self._encoder.encode(Frame(image, 0), self._frames)
                self._frames += 1
                written[scale] = self._write(embedding)
        finally:
            self._coarseness.divisor = 1
        return written

    def _write(self, embedding: Embedding) -> Written:
        service = self._service
        most = service.settings.max_caption_tokens
        return watch(service.asker.describe(embedding, "", max_tokens=most), self._names)


def watch(description: Description, names: ObjectNames) -> Written:
    """Let a description be written, and look at it after each token."""
    partial: set[str] = set()
    cut: set[str] = set()
    for _ in description:
        if description.finished:
            break
        # What is shown ends with a word that is known to be whole.
        shown = description.text.removesuffix(UNFINISHED) + " "
        partial |= names.named(shown, finished=False)
        cut |= names.named(description.written, finished=False)
    final = names.named(description.written, finished=description.finished)
    return Written(
        description.written,
        description.finished,
        *(tuple(sorted(labels)) for labels in (final, partial, cut)),
    )
