# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle sees in a sample of a stage's images: tags, and answers to its typed questions."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.curation.image_files import decode, read_file
from vlm_perception.curation.journal import Journal
from vlm_perception.curation.recipe import BundleCaptioner, BundleEncoder, Recipe, path_or_name
from vlm_perception.curation.tasks import Record
from vlm_perception.media.image_errors import ImageError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.preprocess import FrameError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

Answer = Mapping[str, Any]
"""`labels`, and `answers` by question; empty: the image cannot be looked at."""


class Observer:
    """A bundle that looks at images; each answer is kept in the set's journal."""

    def __init__(self, folder: Path, bundle: ModelBundle, images: int) -> None:
        """Load no network yet.

        Args:
            folder: of the whole set.
            bundle: the model.
            images: how many are looked at.
        """
        self._folder, self._bundle, self._most = folder, bundle, images
        self._journal = Journal(folder)
        self._request = {"kind": "health", "bundle": bundle.digest}

    def seen(self, records: Iterable[Record], stage: str) -> dict[str, Any]:
        """Shares of the images with each label, and with each answer to each question.

        The sample is of those with the lowest digests, mostly the same in each stage.

        Args:
            records: of the images.
            stage: that has kept them, for the progress bar.

        Raises:
            BundleError: the bundle cannot be used.
            OSError: an answer cannot be kept.
        """
        sample = heapq.nsmallest(self._most, records, key=lambda record: str(record["sha256"]))
        answers = track(sample, f"{stage}: looking at images", transient=True)
        found = [answer for record in answers if (answer := self._look(record))]
        labels = Counter(label for each in found for label in each["labels"])
        choices = Counter(pair for each in found for pair in each["answers"].items())
        questions: dict[str, dict[str, float]] = {}
        for (question, choice), count in choices.most_common():
            questions.setdefault(question, {})[choice] = count / len(found)
        return {
            "bundle": self._bundle.manifest.name,
            "bundle_digest": self._bundle.digest,
            "images": len(found),
            "labels": {label: count / len(found) for label, count in labels.most_common()},
            "answers": dict(sorted(questions.items())),
        }

    def _look(self, record: Record) -> Answer:
        known: Answer | None = self._journal.known(record["sha256"], self._request)
        if known is None:
            known = self._answer(self._folder / record["file"])
            # What cannot be read now may be there again the next time.
            if known:
                known = self._journal.add(record["sha256"], self._request, known)
        return known or {}

    def _answer(self, file: Path) -> Answer:
        try:
            embedding = self._encoder.encode(Frame(decode(read_file(file)), 0), 0)
        except (ImageError, FrameError):
            return {}
        vocabulary = self._encoder.vocabulary
        held = vocabulary.hold(self._encoder.scores(embedding.pooled))
        labels = [label for label, holds in zip(vocabulary.labels, held, strict=True) if holds]
        answers: dict[str, str] = {}
        if self._language is not None:
            model, packed = self._language
            for each in model.answer(model.read(embedding), packed):
                answers[each.name] = each.value
        return {"labels": labels, "answers": answers}

    @cached_property
    def _encoder(self) -> VisionEncoder:
        return VisionEncoder(self._bundle, threads=1, temporal=False)

    @cached_property
    def _language(self) -> tuple[LanguageModel, Any] | None:
        questions = self._bundle.manifest.questions
        if self._bundle.manifest.language is None or not questions:
            return None
        model = LanguageModel(self._bundle, threads=1)
        return model, model.pack(questions)


def observer(folder: Path, recipe: Recipe) -> Observer | None:
    """The bundle that looks at a set: that of `health`, else one that the recipe names elsewhere.

    Args:
        folder: of the whole set.
        recipe: of it.

    Returns:
        None: it names none, or no image is to be looked at.

    Raises:
        BundleError: the bundle cannot be used.
    """
    named = recipe.health.bundle or next(_bundles(recipe), None)
    if named is None or not recipe.health.images:
        return None
    bundle = ModelBundle.load(path_or_name(folder, named))
    return Observer(folder, bundle, recipe.health.images)


def _bundles(recipe: Recipe) -> Iterator[str]:
    models = (
        recipe.quality and recipe.quality.tagging_bundle,
        recipe.captions and recipe.captions.captioner,
        recipe.filter.embedding and recipe.filter.embedding.encoder,
    )
    return (each.path for each in models if isinstance(each, BundleEncoder | BundleCaptioner))
