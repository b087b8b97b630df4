# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Several phrases in one frame after the other, by one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.language.interface import Language
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.formats.box_format import BoxFormat
from vlm_perception.perception.locating.formats.choice import format_of_bundle
from vlm_perception.perception.locating.locator import PATCH
from vlm_perception.perception.locating.model import ModelLocator
from vlm_perception.perception.locating.patches import PatchLocator, PhraseQuery
from vlm_perception.perception.preprocess import place_in
from vlm_perception.types import Embedding, LocatedBox


class Method(Protocol):
    """Places phrases in the frame that it has looked at last."""

    def look(self, embedding: Embedding) -> None:
        """Take the next frame, with its image."""

    def find(self, phrase: str) -> tuple[LocatedBox, ...]:
        """Boxes of a phrase in it, the best first.

        Raises:
            LocateError: the phrase cannot be used, or no box can be made of what is written.
        """


class PatchMethod:
    """By patch embeddings."""

    def __init__(self, bundle: ModelBundle, locator: PatchLocator, *, pixels: bool = True) -> None:
        """Look at nothing yet.

        Args:
            bundle: the model.
            locator: looks in its patches.
            pixels: whether outlines and colours are looked up in the image.
        """
        self._locator, self._spec, self._pixels = locator, bundle.manifest.image, pixels
        self._prepared: dict[str, PhraseQuery] = {}

    def look(self, embedding: Embedding) -> None:
        """Take the next frame, with its patches and its image."""
        if embedding.patches is None or embedding.image is None:
            raise LocateError("the frame came without its image or the embeddings of its patches")
        self._patches = embedding.patches
        self._placement = place_in(embedding.image_size, self._spec)
        self._fitted = self._locator.fit(embedding.image) if self._pixels else None

    def prepare(self, phrases: Sequence[str]) -> None:
        """Embed several phrases at once: each time the text tower may have to be loaded."""
        self._prepared = dict(zip(phrases, self._locator.queries(phrases), strict=True))

    def find(self, phrase: str) -> tuple[LocatedBox, ...]:
        """Boxes of a phrase in it, the likeliest first."""
        patches = self._patches
        query = self._prepared.get(phrase) or self._locator.query(phrase)
        return self._locator.find(
            query, patches.vectors, patches.token_index, self._placement, self._fitted
        )


class ModelMethod:
    """By what a language model writes."""

    def __init__(self, language: Language[Any, Any], boxes: BoxFormat) -> None:
        """Look at nothing yet.

        Args:
            language: the model.
            boxes: how it writes them.
        """
        self._language = language
        self._locator = ModelLocator(language, boxes, read=lambda _: self._seen)

    def look(self, embedding: Embedding) -> None:
        """Take the next frame and read its image."""
        self._embedding = embedding
        self._seen = self._language.read(embedding)

    def find(self, phrase: str) -> tuple[LocatedBox, ...]:
        """Boxes of a phrase in it, as they were written."""
        return self._locator.locate(self._embedding, phrase)


def model_of_bundle(bundle: ModelBundle) -> ModelMethod:
    """Load the language model of a bundle.

    Raises:
        LocateError: it is not known to write boxes.
        BundleError: a file is missing or altered.
    """
    boxes = format_of_bundle(bundle.manifest)
    return ModelMethod(LanguageModel(bundle), boxes)


def method_named(name: str, bundle: ModelBundle) -> Method:
    """Load what a method needs.

    Args:
        name: one of `locator.METHODS`.
        bundle: the model.

    Raises:
        LocateError: the bundle cannot do it.
        BundleError: a file is missing or altered.
    """
    return PatchMethod(bundle, PatchLocator(bundle)) if name == PATCH else model_of_bundle(bundle)
