# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of a phrase from the patch embeddings of a dual encoder, with any vocabulary.

The phrase's score in each patch is a map in which its instances are peaks. That a dual encoder's
patch tokens, led through its pooling head one by one, lie in the space of its texts was shown for
CLIP by MaskCLIP (Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.locating.colours import binned, fits, light_of
from vlm_perception.perception.locating.errors import LocateError
from vlm_perception.perception.locating.instances import find_instances
from vlm_perception.perception.locating.outline import grown, heaviest, outline
from vlm_perception.perception.locating.phrase import Phrase, parse_phrase
from vlm_perception.perception.locating.places import SUPERLATIVES, at_place
from vlm_perception.perception.preprocess import Placement, Preprocessor
from vlm_perception.perception.vision.vocabulary import (
    Vocabulary,
    VocabularyBuilder,
    VocabularyError,
)
from vlm_perception.types import FUSED_TOKEN, LocatedBox

KEPT_QUERIES = 256
MOST_BOXES = 8
ASKED = 1.0
"""Log-odds that a phrase needs less than a tag of the same words: who asks where a thing is has
cause to believe that it is there."""
FLOOR = -8.0
"""Patches that the vision graph has dropped, and all below, count as so far below the threshold."""
PERSISTENCE = 2.0
"""Log-odds by which a second thing must stand out from the valley between it and the first."""
WEAKER = 5.0
"""Things are not reported whose log-odds are so far below those of the likeliest one."""
SPREAD = 5.0
"""Log-odds below the peak at which a patch counts 1/e as much: a patch that shows a thing in part
scores lower than one that it fills."""
MARGIN = 1
"""Patches around a thing's own in which its outline is looked for."""
LEVEL = 0.6
"""Without pixels, a thing ends where the interpolated map falls to this share of its peak."""
ALIKE = 0.5
"""A thing is of the colour as a whole if it fits this well, relative to the part that fits best;
else that part is looked at, which may be one of two things that look like one."""
UNFIT = 0.1
"""A pixel that does not fit the colour at all is so much less likely the thing's: it has windows
and wheels."""
SURE = 1.0
"""Log-odds above the threshold from which a thing may be the first, or the last, of all."""
FITS = 0.5
"""Where a colour is named, things are meant that fit it this well, relative to the best one."""


@dataclass(frozen=True)
class PhraseQuery:
    """A phrase that is ready to be compared with patches."""

    phrase: Phrase
    vocabulary: Vocabulary
    """Its first label is the thing without its colour, its second the thing with it."""


@dataclass(frozen=True)
class _Thing:
    """What was found, before words of colour and place are applied."""

    box: tuple[float, float, float, float]
    """x, y, width, height in pixels of the graph's image."""
    log_odds: float
    """Above the threshold."""
    score: float
    fit: float = 1.0
    """How well its colour fits the one that is asked for."""


class PatchLocator:
    """Looks for phrases in the patches of one bundle; belongs to one thread."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Read the embeddings of the bundle's own labels.

        Raises:
            BundleError: a file is missing or altered.
            EngineError: the engine does not take the text tower.
        """
        self._image = bundle.manifest.image
        self._preprocessor = Preprocessor(bundle.manifest.image)
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
        parsed = [parse_phrase(phrase, self._labels) for phrase in phrases]
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
        things = list(dict.fromkeys(w for p in phrases for w in (p.thing, p.coloured) if w))
        others = [label for label in self._labels if label not in things]
        try:
            vocabulary = self._builder.build([*things, *others], version=0)
        except VocabularyError as error:
            raise LocateError(str(error)) from error
        return {
            p.text: PhraseQuery(
                p, _rows(vocabulary, [p.thing, p.coloured or p.thing, *self._labels])
            )
            for p in phrases
        }

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
        """
        by_pixels = bool(query.phrase.colour) and fitted is not None
        row = 1 if query.phrase.colour and not by_pixels else 0
        scores = self._scores(query.vocabulary, row, patches, token_index)
        threshold = query.vocabulary.region_log_odds[row]
        things = self._things(scores, fitted, query.phrase.colour if by_pixels else "", threshold)
        if by_pixels and things:
            best = max(thing.fit for thing in things)
            things = [thing for thing in things if thing.fit >= FITS * best]
            things.sort(key=lambda thing: -thing.fit * thing.score)
        place = query.phrase.place
        if place in SUPERLATIVES:
            things = [thing for thing in things if thing.log_odds >= SURE] or things[:1]
        located = [
            LocatedBox(*placement.in_source(thing.box), score=thing.score) for thing in things
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
        above = vocabulary.log_odds(patches[placed])[:, row] - vocabulary.region_log_odds[row]
        cells = np.full(self._image.rows * self._image.columns, FLOOR, np.float32)
        cells[token_index[placed]] = np.maximum(above, FLOOR)
        return cells.reshape(self._image.rows, self._image.columns)

    def _things(
        self,
        scores: NDArray[np.float32],
        fitted: NDArray[np.uint8] | None,
        colour: str,
        threshold: float,
    ) -> list[_Thing]:
        least = max(-ASKED, float(scores.max()) - WEAKER)
        instances = find_instances(scores, least, PERSISTENCE)[:MOST_BOXES]
        light = light_of(fitted) if fitted is not None and colour else np.ones(3)
        things = []
        for instance in instances:
            # What belongs to another thing is not this one's, however likely.
            own = np.exp((np.minimum(scores, instance.peak) - instance.peak) / SPREAD)
            for other in instances:
                if other is not instance:
                    own[other.cells[:, 0], other.cells[:, 1]] = 0.0
            (left, top), likely = self._window(own, instance.cells)
            fit = 1.0
            if fitted is None:
                (x, y, across, down), _ = heaviest(likely, LEVEL)
            else:
                height, width = likely.shape
                bins = binned(fitted[top : top + height, left : left + width])
                fitting = fits(bins, colour, light) if colour else None
                (x, y, across, down), fit = _outlined(likely, bins, fitting)
            score = 1.0 / (1.0 + np.exp(-float(np.clip(instance.peak + threshold, -60.0, 60.0))))
            box = (float(left + x), float(top + y), float(across), float(down))
            things.append(_Thing(box, instance.peak, float(score), fit))
        return things

    def _window(
        self, own: NDArray[np.float32], cells: NDArray[np.intp]
    ) -> tuple[tuple[int, int], NDArray[np.float32]]:
        """Left and top of the part of the graph's image around some cells, and the map in it.

        Interpolated between the centres of the patches, to the graph's pixels; the peak is 1.
        """
        patch = self._image.patch
        low = np.maximum(cells.min(axis=0) - MARGIN, 0)
        high = np.minimum(cells.max(axis=0) + 1 + MARGIN, own.shape)
        # One more row and column, where there is one, so that the window's own are interpolated.
        begin, end = np.maximum(low - 1, 0), np.minimum(high + 1, own.shape)
        part = own[begin[0] : end[0], begin[1] : end[1]]
        size = (part.shape[1] * patch, part.shape[0] * patch)
        fine = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
        first, last = (low - begin) * patch, (high - begin) * patch
        fine = fine[first[0] : last[0], first[1] : last[1]]
        peak = max(float(fine.max()), 1e-6)
        return (int(low[1]) * patch, int(low[0]) * patch), np.asarray(fine / peak, np.float32)


def _outlined(
    likely: NDArray[np.float32], bins: NDArray[np.intp], fitting: NDArray[np.float32] | None
) -> tuple[tuple[int, int, int, int], float]:
    """Box of a thing, and how well it fits a colour; None: no colour is asked for."""
    box, core = outline(likely, bins)
    if fitting is None:
        return box, 1.0
    part, painted = outline(_where_fitting(likely, fitting), bins)
    fit, whole = float(fitting[painted].mean()), float(fitting[core].mean())
    return (box if whole >= ALIKE * fit else grown(part, box)), fit


def _where_fitting(
    likely: NDArray[np.float32], fitting: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A map of how likely each pixel is the thing's, less so where it does not fit the colour."""
    best = max(float((likely * fitting).max()), 1e-6)
    weighed = likely * (UNFIT + (1.0 - UNFIT) * fitting / best)
    return np.asarray(np.minimum(weighed / max(float(weighed.max()), 1e-6), 1.0), np.float32)


def _box(located: LocatedBox) -> tuple[float, float, float, float]:
    return located.x, located.y, located.width, located.height


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
