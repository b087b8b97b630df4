# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Looks for phrases in frames, by the method that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.embedding_checks import require_readable
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.patches import PatchLocator, PhraseQuery
from vlm_perception.perception.locating.phrase import Phrase, parse_phrase
from vlm_perception.perception.preprocess import place_in
from vlm_perception.types import Embedding, LocatedBox

PATCH, MODEL = "patch", "model"
METHODS = (PATCH, MODEL)
WAITING = 4
"""Phrases that may wait for the one that is being looked for by the same method; a further one is
refused."""
LONGEST_NAME = 40

Newest = Callable[[], Embedding]
"""Gives the newest frame, or raises VlmPerceptionError."""
Writes = Callable[[Embedding, str], tuple[LocatedBox, ...]]
"""Where the language model says that a phrase is in a frame, as it reads it."""


@dataclass(frozen=True)
class Located:
    """What was found, and in which frame."""

    phrase: Phrase
    boxes: tuple[LocatedBox, ...]
    """The best first."""
    method: str
    embedding: Embedding
    query: PhraseQuery | None
    """What finds the thing in later frames, wherever it is; None where that was not asked for."""


class _Line:
    """Where phrases wait for their turn."""

    def __init__(self) -> None:
        self._places, self._turn = threading.BoundedSemaphore(1 + WAITING), threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one in at a time and a few wait.

        Raises:
            LocateError: too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise LocateError(f"busy: {WAITING} phrases are already waiting; ask again in a moment")
        try:
            with self._turn:
                yield
        finally:
            self._places.release()


class Locator:
    """Looks for phrases in the frames of one bundle; for any thread."""

    def __init__(self, bundle: ModelBundle, writes: Writes | None, without: str) -> None:
        """Look in this bundle's frames; its text tower is loaded when a phrase needs it.

        Args:
            bundle: the model.
            writes: asks its language model; None: that cannot be asked.
            without: why not, with the remedy.
        """
        self._bundle, self._writes, self._without = bundle, writes, without
        self._labels = bundle.manifest.vocabulary.names
        # A search takes milliseconds and does not wait for what a language model writes.
        self._lines = {method: _Line() for method in METHODS}
        self._embeds, self._fits = threading.Lock(), threading.Lock()
        self._patches: PatchLocator | None = None

    def locate(
        self, phrase: str, method: str, *, track: bool, patches: Newest, whole: Newest
    ) -> Located:
        """Look for a phrase in the frame that is the newest when its turn comes.

        Args:
            phrase: taken literally, whatever it holds.
            method: one of METHODS; empty: the default.
            track: whether the thing is to be found in later frames, too.
            patches: gives that frame with its patch embeddings.
            whole: gives it with what the language model reads.

        Raises:
            LocateError: the phrase or the method cannot be used, or too many wait.
            VlmPerceptionError: there is no frame, or it cannot be read.
        """
        parsed, method = parse_phrase(phrase, self._labels), method or PATCH
        self._check(method)
        with self._lines[method].turn():
            query = self._query(parsed.text) if track or method == PATCH else None
            if query is not None and method == PATCH:
                embedding = patches()
                boxes = self.look(query, embedding)
            else:
                embedding = whole()
                require_readable(embedding, self._bundle)
                boxes = self._written(embedding, parsed.text)
        follows = None
        if track and query is not None:
            follows = replace(query, phrase=replace(query.phrase, place=None))
        return Located(parsed, boxes, method, embedding, follows)

    def look(self, query: PhraseQuery, embedding: Embedding) -> tuple[LocatedBox, ...]:
        """Look for what was embedded in one frame, which takes milliseconds.

        Args:
            query: the phrase.
            embedding: the frame, with its patch embeddings.

        Raises:
            VlmPerceptionError: the frame cannot be read.
        """
        require_readable(embedding, self._bundle)
        patches, locator = embedding.patches, self._patches
        if patches is None or locator is None:
            raise LocateError(
                "the frame came without patch embeddings; start a vision_encoder of this version"
            )
        placement = place_in(embedding.image_size, self._bundle.manifest.image)
        fitted = patches.fitted
        if fitted is None and embedding.image is not None:
            with self._fits:
                fitted = locator.fit(embedding.image)
        return locator.find(query, patches.vectors, patches.token_index, placement, fitted)

    def _check(self, method: str) -> None:
        if method not in METHODS:
            raise LocateError(
                f"the method {method[:LONGEST_NAME]!r} is unknown; give {' or '.join(METHODS)}, or "
                "leave it empty"
            )
        if method == MODEL and self._writes is None:
            raise LocateError(self._without)

    def _query(self, phrase: str) -> PhraseQuery:
        """Embed a phrase, one at a time."""
        with self._embeds:
            if self._patches is None:
                self._patches = PatchLocator(self._bundle)
            return self._patches.query(phrase)

    def _written(self, embedding: Embedding, phrase: str) -> tuple[LocatedBox, ...]:
        if self._writes is None:
            raise LocateError(self._without)
        return self._writes(embedding, phrase)
