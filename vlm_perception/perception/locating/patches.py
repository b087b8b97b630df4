# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of a phrase from the patch embeddings of a dual encoder, with any vocabulary."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.phrase import Phrase, parse_phrase
from vlm_perception.perception.preprocess import Placement
from vlm_perception.perception.vision.vocabulary import (
    Vocabulary,
    VocabularyBuilder,
    VocabularyError,
)
from vlm_perception.types import FUSED_TOKEN, LocatedBox

KEPT_QUERIES = 256
FINER = 8
"""The score map is interpolated to so many cells a patch, along each axis."""
MOST_BOXES = 8


@dataclass(frozen=True)
class PhraseQuery:
    """A phrase that is ready to be compared with patches."""

    phrase: Phrase
    vocabulary: Vocabulary
    """Its first label is the thing that the phrase names."""


class PatchLocator:
    """Looks for phrases in the patches of one bundle; belongs to one thread."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Read the embeddings of the bundle's own labels.

        Raises:
            BundleError: a file is missing or altered.
            EngineError: the engine does not take the text tower.
        """
        self._image = bundle.manifest.image
        self._builder = VocabularyBuilder(bundle)
        self._labels = [spec.label for spec in bundle.manifest.vocabulary.labels]
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
        parsed = [parse_phrase(phrase) for phrase in phrases]
        new = {phrase.text: phrase for phrase in parsed if phrase.text not in self._queries}
        fresh = self._embed(list(new.values()))
        found = tuple(fresh.get(p.text) or self._queries[p.text] for p in parsed)
        for query in found:
            self._queries[query.phrase.text] = query
            self._queries.move_to_end(query.phrase.text)
        while len(self._queries) > KEPT_QUERIES:
            self._queries.popitem(last=False)
        return found

    def _embed(self, phrases: Sequence[Phrase]) -> dict[str, PhraseQuery]:
        if not phrases:
            return {}
        things = list(dict.fromkeys(phrase.thing for phrase in phrases))
        others = [label for label in self._labels if label not in things]
        try:
            vocabulary = self._builder.build([*things, *others], version=0)
        except VocabularyError as error:
            raise LocateError(str(error)) from error
        return {
            phrase.text: PhraseQuery(phrase, _rows(vocabulary, [phrase.thing, *self._labels]))
            for phrase in phrases
        }

    def find(
        self,
        query: PhraseQuery,
        patches: NDArray[np.float32],
        token_index: NDArray[np.uint16],
        placement: Placement,
    ) -> tuple[LocatedBox, ...]:
        """Look for a phrase in one frame.

        Args:
            query: the phrase.
            patches: [K, D], patch embeddings in text space.
            token_index: [K], place of each in the grid, row-major; FUSED_TOKEN for a fused one.
            placement: where the camera image is in the graph's.

        Returns:
            Boxes in pixels of the camera image, the likeliest first; none where the phrase is not.
        """
        image, placed = self._image, token_index != FUSED_TOKEN
        cells = np.zeros(image.rows * image.columns, np.float32)
        cells[token_index[placed]] = query.vocabulary.probabilities(patches[placed])[:, 0]
        size = (image.columns * FINER, image.rows * FINER)
        fine = cv2.resize(
            cells.reshape(image.rows, image.columns), size, interpolation=cv2.INTER_LINEAR
        )
        threshold = max(float(query.vocabulary.region_thresholds[0]), float(fine.max()) / 2)
        mask = (fine >= threshold).astype(np.uint8)
        count, marks, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        unit = image.patch / FINER
        boxes = []
        for index in range(1, count):
            left, top, across, down = (float(value) * unit for value in stats[index, :4])
            x, y, width, height = placement.in_source((left, top, across, down))
            if width > 0 and height > 0:
                score = float(fine[marks == index].max())
                boxes.append(LocatedBox(x, y, width, height, score))
        boxes.sort(key=lambda box: -box.score)
        return tuple(boxes[:MOST_BOXES])


def _rows(vocabulary: Vocabulary, labels: Sequence[str]) -> Vocabulary:
    """A part of a vocabulary, each label once."""
    names = tuple(dict.fromkeys(labels))
    rows = [vocabulary.labels.index(name) for name in names]
    return replace(
        vocabulary,
        labels=names,
        embeddings=vocabulary.embeddings[rows],
        thresholds=vocabulary.thresholds[rows],
        region_thresholds=vocabulary.region_thresholds[rows],
        scales=vocabulary.scales[rows],
        biases=vocabulary.biases[rows],
    )
