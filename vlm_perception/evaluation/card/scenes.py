# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Tags and typed answers of a bundle on labelled images, image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.evaluation.card.known_images import KnownImage, KnownSet
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.tasks.answer_figures import AnswerResults, QuestionResults
from vlm_perception.evaluation.tasks.tag_figures import TagResults
from vlm_perception.media.image_errors import ImageError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.preprocess import FrameError
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

THREADS = 2

Record = Mapping[str, Any]
"""What was found in one image: `scores`, `held` and `present` by label, of an image with labels;
`probabilities` of the choices and the `true` choice, by question; its `version`. For JSON."""


@dataclass(frozen=True)
class Seen:
    """What a bundle makes of a set."""

    records: Mapping[str, Record]
    """By the images' names."""
    labels: Sequence[str]
    questions: Sequence[QuestionSpec]
    described: Mapping[str, str]
    """The set: name, version and split."""

    def tags(self) -> TagResults | None:
        """The tags of the images that have labels; None if none has."""
        rows = {name: each for name, each in self.records.items() if "scores" in each}
        if not rows:
            return None
        kinds = ("scores", "present", "held")
        scores, present, held = (np.array([each[kind] for each in rows.values()]) for kind in kinds)
        return TagResults(list(rows), self.labels, scores, present, held)

    def answers(self) -> AnswerResults | None:
        """The typed answers; None if no image answers a question."""
        rows = {name: each for name, each in self.records.items() if each["true"]}
        if not rows:
            return None
        return AnswerResults(
            list(rows), [_question(each, list(rows.values())) for each in self.questions]
        )


def _question(question: QuestionSpec, rows: Sequence[Record]) -> QuestionResults:
    name, choices = question.name, question.choices
    truth = [choices.index(row["true"][name]) if name in row["true"] else -1 for row in rows]
    probabilities = np.array([row["probabilities"][name] for row in rows], np.float64)
    return QuestionResults(name, probabilities, np.array(truth, np.int64))


class Looker:
    """A bundle's encoder and language model, looking at single images."""

    def __init__(
        self, bundle: ModelBundle, labels: Sequence[str], questions: Sequence[QuestionSpec]
    ) -> None:
        """Load the networks.

        Args:
            bundle: the model.
            labels: what is looked for. The bundle keeps its own vocabulary if that has them all.
            questions: what is asked; of no use without a language model.

        Raises:
            BundleError: it lacks a file.
            VocabularyError: a label cannot be used.
        """
        self._encoder = VisionEncoder(bundle, threads=THREADS, temporal=False)
        own = {label.casefold(): label for label in bundle.manifest.vocabulary.names}
        if not {label.casefold() for label in labels} <= own.keys():
            self._encoder.set_vocabulary(labels)
            own = {label.casefold(): label for label in labels}
        places = [self._encoder.vocabulary.labels.index(own[label.casefold()]) for label in labels]
        self._columns, self._labels = places, labels
        self._language: LanguageModel | None = None
        if bundle.manifest.language is not None and questions:
            self._language = LanguageModel(bundle, threads=THREADS)
            self._packed = self._language.pack(questions)

    @property
    def engines(self) -> Sequence[str]:
        """What runs the networks."""
        language = [] if self._language is None else [self._language.engine_name]
        return [self._encoder.engine_name, *language]

    def look(self, image: KnownImage) -> Record:
        """What is found in an image.

        Raises:
            ImageError: it cannot be read any more.
            FrameError: it is no image that the encoder takes.
        """
        embedding = self._encoder.encode(Frame(image.read(), 0), 0)
        record: dict[str, Any] = {"version": image.version, "probabilities": {}, "true": {}}
        if image.labels is not None:
            scores = self._encoder.scores(embedding.pooled)
            held = self._encoder.vocabulary.hold(scores)
            present = {label.casefold() for label in image.labels}
            record["scores"] = [float(scores[at]) for at in self._columns]
            record["held"] = [bool(held[at]) for at in self._columns]
            record["present"] = [label.casefold() in present for label in self._labels]
        if self._language is not None and image.answers:
            answers = self._language.answer(self._language.read(embedding), self._packed)
            record["probabilities"] = {each.name: list(each.probabilities) for each in answers}
            record["true"] = dict(image.answers)
        return record


def look_at(
    bundle: ModelBundle,
    chosen: KnownSet,
    journal: Callable[[str, Mapping[str, Any]], Journal],
) -> Seen:
    """Let a bundle look at every image that it has not looked at in an earlier run.

    Args:
        bundle: the model.
        chosen: what it looks at.
        journal: opens what was finished, by its name and what it depends on beside the bundle.

    Raises:
        JournalError: what was finished is damaged.
        FolderImagesError: an image cannot be used after all, and is not to be left out.
    """
    labels = chosen.labels
    questions = chosen.questions if bundle.manifest.language is not None else ()
    looker = Looker(bundle, labels, questions)
    identity = {
        "engines": looker.engines,
        "labels": labels,
        "questions": [each.model_dump(mode="json") for each in questions],
    }
    records: dict[str, Record] = {}
    with journal("scenes", identity) as finished:
        for image in track(chosen, "Tags and answers", total=len(chosen), transient=True):
            found = finished.items.get(image.name)
            if found is None or found["version"] != image.version:
                try:
                    found = looker.look(image)
                except (ImageError, FrameError) as error:
                    chosen.leave_out(image.name, error)
                    continue
                finished.add(image.name, found)
            records[image.name] = found
    return Seen(records, labels, questions, chosen.described())
