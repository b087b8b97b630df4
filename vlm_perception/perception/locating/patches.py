# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of a phrase from the patch embeddings of a dual encoder, with any vocabulary.

The phrase's score in each patch is a map in which its instances are peaks. That a dual encoder's
patch tokens, led through its pooling head one by one, lie in the space of its texts was shown for
CLIP by MaskCLIP (Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import MOST_LABELS
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.phrase import Phrase, parse_phrase
from vlm_perception.perception.locating.places import SUPERLATIVES, at_place
from vlm_perception.perception.locating.things import find_things
from vlm_perception.perception.preprocess import Placement, Preprocessor
from vlm_perception.perception.vision.vocabulary import (
    Vocabulary,
    VocabularyBuilder,
    VocabularyError,
)
from vlm_perception.types import FUSED_TOKEN, LocatedBox

KEPT_QUERIES = 256
ASKED = 1.0
"""Log-odds that a phrase needs less than a tag of the same words: who asks where a thing is has
cause to believe that it is there."""
FLOOR = -8.0
"""Patches that the vision graph has dropped, and all below, count as so far below the threshold."""
SURE = 1.0
"""Log-odds above the threshold from which a thing may be the first, or the last, of all."""
FITS = 0.5
"""Where a colour is named, things are meant that fit it this well, relative to the best one."""


@dataclass(frozen=True)
class PhraseQuery:
    """A phrase that is ready to be compared with patches."""

    phrase: Phrase
    vocabulary: Vocabulary
    """Its first label is the thing without its colour, its second, if any, the thing with it."""


class PatchLocator:
    """Looks for phrases in the patches of one bundle.

    `find` may be called from any thread; the rest belongs to one at a time.
    """

    def __init__(self, bundle: ModelBundle) -> None:
        """Read the embeddings of the bundle's own labels.

        Raises:
            BundleError: a file is missing or altered.
            EngineError: the engine does not take the text tower.
        """
        self._image = bundle.manifest.image
        self._preprocessor = Preprocessor(bundle.manifest.image)
        self._builder = VocabularyBuilder(bundle)
        self._labels = bundle.manifest.vocabulary.names
        # Where the probabilities of labels add up to one, a phrase's depends on what else there is.
        exclusive = bundle.manifest.text.score == "softmax"
        self._rivals = self._builder.build(None, version=0) if exclusive else None
        self._queries: OrderedDict[str, PhraseQuery] = OrderedDict()

    def query(self, phrase: str) -> PhraseQuery:
        """Embed a phrase; for one that is no label of the bundle a process loads the text tower.

        Raises:
            LocateError: the phrase cannot be used.
        """
        return self.queries([phrase])[0]

    def queries(self, phrases: Sequence[str]) -> tuple[PhraseQuery, ...]:
        """Embed several phrases, the text tower being loaded once; each is kept for a while.

        Raises:
            LocateError: one of them cannot be used.
        """
        parsed = [parse_phrase(phrase, self._labels) for phrase in phrases]
        new = {phrase.text: phrase for phrase in parsed if phrase.text not in self._queries}
        fresh = {
            query.phrase.text: query
            for batch in _batches(list(new.values()))
            for query in self._embed(batch)
        }
        found = tuple(fresh.get(p.text) or self._queries[p.text] for p in parsed)
        for query in found:
            self._queries[query.phrase.text] = query
            self._queries.move_to_end(query.phrase.text)
        while len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return found

    def _embed(self, phrases: Sequence[Phrase]) -> Iterator[PhraseQuery]:
        things = list(dict.fromkeys(thing for phrase in phrases for thing in _things(phrase)))
        try:
            vocabulary = self._builder.build(things, version=0)
        except VocabularyError as error:
            raise LocateError(f"the phrase cannot be looked for: {error}") from error
        for phrase in phrases:
            rows = [vocabulary.labels.index(thing) for thing in _things(phrase)]
            yield PhraseQuery(phrase, _rows(vocabulary, rows))

    def fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A camera image as the vision graph sees it, [height, width, 3], for `find`.

        Raises:
            FrameError: it is no RGB image.
        """
        return np.array(self._preprocessor.run(image)[0][0])

    def find(
        self,
        query: PhraseQuery,
        patches: NDArray[np.float32],
        token_index: NDArray[np.uint16],
        placement: Placement,
        fitted: NDArray[np.uint8] | None = None,
    ) -> tuple[LocatedBox, ...]:
        """Look for a phrase in one frame.

        Args:
            query: the phrase.
            patches: [K, D], patch embeddings in text space.
            token_index: [K], place of each in the grid, row-major; FUSED_TOKEN for a fused one.
            placement: where the camera image is in the graph's.
            fitted: the image as the graph sees it: outlines follow its colours, and the colour that
                a phrase names is looked up in it. None: outlines are interpolated from the patches,
                and colours are left to the text tower.

        Returns:
            Boxes in pixels of the camera image, the likeliest first; none where the phrase is not.

        Raises:
            LocateError: `fitted` is not of the size of the graph's image.
        """
        expected = (self._image.height, self._image.width, 3)
        if fitted is not None and fitted.shape != expected:
            raise LocateError(
                f"the fitted image has the shape {list(fitted.shape)}, not {list(expected)}; give "
                "what `fit` returns"
            )
        by_pixels = bool(query.phrase.colour) and fitted is not None
        row = 1 if query.phrase.colour and not by_pixels else 0
        scores = self._scores(query.vocabulary, row, patches, token_index)
        threshold = float(query.vocabulary.region_log_odds[row])
        colour = query.phrase.colour if by_pixels else ""
        place = query.phrase.place
        chosen = bool(query.phrase.colour or place)
        things = find_things(scores, -ASKED, self._image.patch, fitted, colour, chosen=chosen)
        if by_pixels and things:
            best = max(thing.fit for thing in things)
            things = [thing for thing in things if thing.fit >= FITS * best]
            things.sort(key=lambda thing: -thing.fit * _probability(thing.log_odds + threshold))
        if place in SUPERLATIVES:
            things = [thing for thing in things if thing.log_odds >= SURE] or things[:1]
        located = [
            LocatedBox(*placement.in_source(thing.box), _probability(thing.log_odds + threshold))
            for thing in things
        ]
        inside = [box for box in located if box.width > 0.0 and box.height > 0.0]
        return tuple(at_place(inside, _box, place, placement.source_width))

    def _scores(
        self,
        vocabulary: Vocabulary,
        row: int,
        patches: NDArray[np.float32],
        token_index: NDArray[np.uint16],
    ) -> NDArray[np.float32]:
        """Log-odds of a label above its threshold for regions, [rows, columns]."""
        placed = token_index != FUSED_TOKEN
        vocabulary = _beside(vocabulary, self._rivals) if self._rivals else vocabulary
        above = vocabulary.log_odds(patches[placed])[:, row] - vocabulary.region_log_odds[row]
        cells = np.full(self._image.rows * self._image.columns, FLOOR, np.float32)
        cells[token_index[placed]] = np.maximum(above, FLOOR)
        return cells.reshape(self._image.rows, self._image.columns)


def _probability(log_odds: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(log_odds, -60.0, 60.0))))


def _box(located: LocatedBox) -> tuple[float, float, float, float]:
    return located.x, located.y, located.width, located.height


def _things(phrase: Phrase) -> tuple[str, ...]:
    return (phrase.thing, phrase.coloured) if phrase.coloured else (phrase.thing,)


def _batches(phrases: Sequence[Phrase]) -> Iterator[Sequence[Phrase]]:
    """As many at a time as a vocabulary can hold, each with and without its colour."""
    most = MOST_LABELS // 2
    return (phrases[first : first + most] for first in range(0, len(phrases), most))


def _beside(vocabulary: Vocabulary, rivals: Vocabulary) -> Vocabulary:
    """A vocabulary with the labels of another behind its own, each once."""
    new = [row for row, name in enumerate(rivals.labels) if name not in vocabulary.labels]
    more = _rows(rivals, new)
    joined = {
        name: np.concatenate((getattr(vocabulary, name), getattr(more, name))) for name in _ARRAYS
    }
    return replace(vocabulary, labels=vocabulary.labels + more.labels, **joined)


_ARRAYS = ("embeddings", "thresholds", "region_thresholds", "scales", "biases")


def _rows(vocabulary: Vocabulary, rows: Sequence[int]) -> Vocabulary:
    """A part of a vocabulary, with arrays of its own."""
    arrays = {name: getattr(vocabulary, name)[list(rows)] for name in _ARRAYS}
    return replace(vocabulary, labels=tuple(vocabulary.labels[row] for row in rows), **arrays)
