# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the encoder of a recipe, and its tags, say of an image and its captions.

All of it goes through the journal: another machine may compute other last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.curation.encoders import Encoder, open_encoder
from vlm_perception.curation.image_files import decode, read_file, usable_image
from vlm_perception.curation.journal import Journal
from vlm_perception.curation.quality.tags import Margins, Tags
from vlm_perception.curation.recipe import Quality, path_or_name
from vlm_perception.curation.tasks import Record
from vlm_perception.curation.thresholds.pair_limits import DIGITS

AS_IT_CAME = "as_it_came"
"""In a record whose file is not of the set, and may need what 00_raw does: to be turned, say."""


@dataclass(frozen=True)
class Evidence:
    """What is known of an image and a caption."""

    cosine: float
    named: Margins
    """Of the labels that the caption names."""
    unnamed: Margins
    """Of those that it does not name."""


class PairScores:
    """Scores the pairs of a set."""

    def __init__(self, folder: Path, quality: Quality) -> None:
        """Take the folder of the whole set; the encoder is opened when it is needed."""
        self._folder, self._quality = folder, quality
        self._journal = Journal(folder)
        self._image: tuple[str, NDArray[np.float32]] | None = None

    @property
    def prefix(self) -> str:
        """Of each caption, when it is embedded."""
        return self._quality.prefix

    @cached_property
    def encoder(self) -> Encoder:
        """That of the recipe."""
        return open_encoder(self._quality.encoder, self._folder)

    @property
    def digests(self) -> list[str]:
        """Of all encoders that it may ask."""
        return [
            each.digest
            for each in (self.encoder, self._translator, self.tagger)
            if each is not None
        ]

    @cached_property
    def _translator(self) -> Encoder | None:
        spec = self._quality.translations
        return None if spec is None else open_encoder(spec.encoder, self._folder)

    @cached_property
    def tagger(self) -> Encoder | None:
        """The bundle whose tags mark captions; None: there is none."""
        spec = self._quality.tagging_bundle
        return open_encoder(spec, self._folder) if spec is not None else None

    @property
    def tagger_digest(self) -> str:
        """That of the bundle whose tags mark captions; empty: there is none."""
        return self.tagger.digest if self.tagger is not None else ""

    def cosines(self, record: Record, texts: Sequence[str]) -> list[float]:
        """The cosine of an image with each text, behind the prefix of the recipe.

        Raises:
            ImageError: the image cannot be read.
        """
        asked = [self._request("score", text) for text in texts]
        known = [self._journal.known(record["sha256"], request) for request in asked]
        if None in known:
            image, rows = self._embedded(record), self.texts(texts)
            known = [
                self._journal.add(record["sha256"], request, round(float(image @ row), DIGITS))
                if answer is None
                else answer
                for answer, request, row in zip(known, asked, rows, strict=True)
            ]
        return [float(answer) for answer in known]

    def translation_cosines(self, record: Record, text: str, others: Sequence[str]) -> list[float]:
        """The cosine of a caption with each of those that it may be a translation of."""
        encoder = self._translator
        if encoder is None:
            raise AssertionError("translations are compared only where the recipe says how")
        sha256, found = record["sha256"], []
        for other in others:
            request = {"kind": "translation", "encoder": encoder.digest, "texts": [text, other]}
            cosine = self._journal.known(sha256, request)
            if cosine is None:
                one, two = encoder.texts([text, other])
                cosine = self._journal.add(sha256, request, round(float(one @ two), DIGITS))
            found.append(float(cosine))
        return found

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions, behind the prefix of the recipe, [N, D]."""
        return self.encoder.texts([self._quality.prefix + text for text in texts])

    def reads_whole(self, text: str) -> bool:
        """Whether a caption, with its prefix, is not longer than the encoder reads."""
        return self.encoder.reads_whole(self._quality.prefix + text)

    def image(self, record: Record) -> NDArray[np.float32]:
        """Embed an image, [D].

        Raises:
            ImageError: it cannot be read.
        """
        return self._embedded(record)

    def evidence(self, record: Record, texts: Sequence[str]) -> list[Evidence]:
        """What speaks for and against each caption of an image.

        Raises:
            ImageError: the image cannot be read.
        """
        if not texts:
            return []
        margins, cosines = self._margins(record), self.cosines(record, texts)
        parted = [self._tags.parted(text, margins) if self._tags else ({}, {}) for text in texts]
        return [Evidence(each, *parts) for each, parts in zip(cosines, parted, strict=True)]

    def _margins(self, record: Record) -> dict[str, float]:
        if self._tags is None or self.tagger is None:
            return {}
        request = {"kind": "tags", "encoder": self.tagger.digest}
        known = self._journal.known(record["sha256"], request)
        if known is None:
            same = self.tagger.digest == self.encoder.digest
            embedded = self._embedded(record) if same else self._seen_by(self.tagger, record)
            margins = self._tags.margins(embedded)
            shown = {label: round(margin, DIGITS) for label, margin in margins.items()}
            known = self._journal.add(record["sha256"], request, shown)
        return dict(known)

    @cached_property
    def _tags(self) -> Tags | None:
        spec = self._quality.tagging_bundle
        if spec is None:
            return None
        return Tags(ModelBundle.load(path_or_name(self._folder, spec.path)), self._folder)

    def _embedded(self, record: Record) -> NDArray[np.float32]:
        if self._image is None or self._image[0] != record["sha256"]:
            self._image = (record["sha256"], self._seen_by(self.encoder, record))
        return self._image[1]

    def _seen_by(self, encoder: Encoder, record: Record) -> NDArray[np.float32]:
        content = read_file(self._folder / record["file"])
        if record.get(AS_IT_CAME):
            content = usable_image(content).file
        row: NDArray[np.float32] = encoder.images([decode(content)])[0]
        return row

    def _request(self, kind: str, text: str) -> dict[str, str]:
        prefix = self._quality.prefix
        return {"kind": kind, "encoder": self.encoder.digest, "prefix": prefix, "text": text}


@lru_cache(2)
def pair_scores(folder: Path, quality: Quality) -> PairScores:
    """The scores of a set; a process opens them once."""
    return PairScores(folder, quality)
