# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmark of a road-world bundle: unseen scenes, every figure with its no-skill baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.roadworld.appearance import PLAIN, Appearance, open_appearance
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS, Street, Streets
from vlm_perception.datasets.roadworld.truth import (
    CAPTION_PROMPT,
    QUESTIONS,
    SMALL_SHARE,
    SceneTruth,
    object_labels_in,
    presence_question,
)
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.evaluation.pope.negatives import SPLITS, LabelCounts
from vlm_perception.evaluation.report import Report
from vlm_perception.evaluation.road_world import EXAM_SEED, require_road_world
from vlm_perception.evaluation.task import run_task
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

MAX_CAPTION_TOKENS = 80
SIZES = {"small": (0.001, SMALL_SHARE), "medium": (SMALL_SHARE, 0.02), "large": (0.02, 1.01)}
"""Share of the image that the largest object of a label covers."""
CONDITIONS_FROM = 500
"""With fewer scenes than this the benchmark's own balance is not checked."""


class RoadWorldTaskError(VlmPerceptionError):
    """The benchmark is not as hard as documented."""


@dataclass
class Answers:
    """The bundle's outputs for every scene, with the ground truth."""

    truths: list[SceneTruth] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)
    presence: list[dict[str, str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def run(bundle: str, scenes: int, appearance: float = 0.0) -> Report:
    """Run the benchmark.

    Args:
        bundle: name or directory.
        scenes: how many.
        appearance: 0..1, how far streets and cameras are from the plain ones.

    Raises:
        BundleError: The bundle cannot be used.
        ForeignBundleError: It lacks a label or the language model that the benchmark needs.
        RoadWorldTaskError: The road world no longer produces scenes as hard as documented.
    """
    looks = open_appearance(appearance)
    task = RoadWorldTask(ModelBundle.load(bundle), appearance)
    return run_task(task, evaluation_streets(scenes, looks))


def evaluation_streets(scenes: int, appearance: Appearance = PLAIN) -> Streets:
    """The benchmark's scenes."""
    return Streets(range(EXAM_SEED, EXAM_SEED + scenes), appearance=appearance)


class RoadWorldTask:
    """A bundle running the benchmark."""

    def __init__(self, bundle: ModelBundle, appearance: float = 0.0) -> None:
        """Load the bundle's networks and lay the questions out.

        Args:
            bundle: to run.
            appearance: of the streets that it will see, for the report.

        Raises:
            ForeignBundleError: it lacks a label or the language model that the benchmark needs.
        """
        require_road_world(bundle)
        labels = bundle.manifest.vocabulary.names
        self.encoder = VisionEncoder(bundle, threads=2)
        self.language = LanguageModel(bundle, threads=2)
        self.answers = Answers()
        self._digest, self._appearance = bundle.digest, appearance
        self._columns = [labels.index(label) for label in LABELS]
        exists = [
            QuestionSpec(name=n, question=presence_question(n), choices=("yes", "no"))
            for n in LABELS
        ]
        self._typed, self._exists = map(self.language.pack, (TYPED_QUESTIONS, exists))

    def take(self, sample: Street) -> NDArray[np.float32]:
        """Answer every question about one scene; returns the pooled embedding [D]."""
        embedding = self.encoder.encode(Frame(sample.image, 0), 0)
        prefix, answers = self.language.read(embedding), self.answers
        answers.truths.append(sample.truth)
        answers.scores.append(self.encoder.scores(embedding.pooled)[self._columns])
        for answered, packed in (
            (answers.attributes, self._typed),
            (answers.presence, self._exists),
        ):
            answered.append({a.name: a.value for a in self.language.answer(prefix, packed)})
        caption = self.language.generate(prefix, CAPTION_PROMPT, max_tokens=MAX_CAPTION_TOKENS)
        answers.captions.append(caption.text)
        return embedding.pooled

    def report(self) -> Report:
        """The metrics.

        Raises:
            RoadWorldTaskError: the scenes were not as hard as they should be.
        """
        figures, tables = metrics(self.answers)
        truths = self.answers.truths
        figures |= {"scenes": len(truths), "bundle_digest": self._digest}
        figures["appearance"] = self._appearance
        return Report([*tables, conditions(truths)], figures)


def metrics(answers: Answers) -> tuple[dict[str, object], list[Table]]:
    """Every figure by its key, and the tables for people."""
    tags, tag_table = _tags(answers)
    attributes, attribute_table = _attributes(answers)
    presence, presence_table = _presence(answers)
    captions, caption_table = _captions(answers)
    return (
        {**tags, **attributes, **presence, **captions},
        [tag_table, attribute_table, presence_table, caption_table],
    )


def _shares(truths: Sequence[SceneTruth], label: str) -> NDArray[np.float64]:
    """Share of the image of the largest object of a label, 0 where it is absent, [scenes]."""
    return np.array([truth.shares.get(label, 0.0) for truth in truths])


def _average_precision(present: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """AP; NaN where the label is always or never present."""
    if not present.any() or present.all():
        return float("nan")
    return float(average_precision_score(present, scores))


def _tags(answers: Answers) -> tuple[dict[str, object], Table]:
    table = Table("label", "AP", "chance", *SIZES, title="Tags: average precision")
    scores = np.array(answers.scores, np.float64)
    rows: list[list[float]] = []
    for column, label in enumerate(LABELS):
        shares = _shares(answers.truths, label)
        absent = shares == 0
        row = [
            _average_precision(~absent, scores[:, column]),
            float((~absent).mean()),
        ]
        for low, high in SIZES.values():
            here = (shares >= low) & (shares < high)
            asked = here | absent
            known = label in OBJECT_LABELS
            row.append(_average_precision(here[asked], scores[asked, column]) if known else np.nan)
        rows.append(row)
        table.add_row(label, *(f"{value:.3f}" for value in row))
    mean = np.nanmean(np.array(rows), axis=0)
    table.add_section()
    table.add_row("macro", *(f"{value:.3f}" for value in mean))
    return {
        "tags_macro_ap": float(mean[0]),
        "tags_macro_ap_chance": float(mean[1]),
        "tags_small_macro_ap": float(mean[2]),
        "tags_medium_macro_ap": float(mean[3]),
        "tags_large_macro_ap": float(mean[4]),
        "tags_ap": {label: row[0] for label, row in zip(LABELS, rows, strict=True)},
    }, table


def _attributes(answers: Answers) -> tuple[dict[str, object], Table]:
    table = Table("question", "balanced accuracy", "majority class", title="Typed questions")
    found = {}
    for name in QUESTIONS:
        true = [truth.attributes[name] for truth in answers.truths]
        predicted = [attributes[name] for attributes in answers.attributes]
        found[name] = float(balanced_accuracy_score(true, predicted))
        table.add_row(name, f"{found[name]:.3f}", f"{1 / len(set(true)):.3f}")
    mean, least = float(np.mean(list(found.values()))), min(found.values())
    table.add_section()
    chance = float(np.mean([1 / len(choices) for _, choices in QUESTIONS.values()]))
    table.add_row("mean", f"{mean:.3f}", f"{chance:.3f}")
    table.add_row("least", f"{least:.3f}", "")
    return {
        "attributes_balanced_accuracy_mean": mean,
        "attributes_balanced_accuracy_min": least,
        "attributes_balanced_accuracy": found,
        "attributes_majority_mean": chance,
    }, table


def negatives(truths: Sequence[SceneTruth]) -> list[list[tuple[str, str, str]]]:
    """For each scene (kind, present label, absent label), up to one of each kind."""
    rng = np.random.default_rng(11)
    present = [np.flatnonzero([label in truth.shares for label in LABELS]) for truth in truths]
    counts = LabelCounts(present, len(LABELS))
    drawn = []
    for here in present:
        absent = np.setdiff1d(np.arange(len(LABELS)), here)
        count = min(len(SPLITS), len(here), len(absent))
        asked = rng.permutation(here)[:count]
        kinds = rng.permutation(len(SPLITS))[:count]
        pairs = []
        for kind, positive in zip(kinds, asked, strict=True):
            negative = counts.ordered(SPLITS[kind], here, absent, rng)[0]
            absent = absent[absent != negative]
            pairs.append((SPLITS[kind], LABELS[positive], LABELS[negative]))
        drawn.append(pairs)
    return drawn


def _presence(answers: Answers) -> tuple[dict[str, object], Table]:
    true: dict[str, list[bool]] = {kind: [] for kind in SPLITS}
    predicted: dict[str, list[bool]] = {kind: [] for kind in SPLITS}
    recall: dict[str, list[bool]] = {size: [] for size in SIZES}
    pairs = negatives(answers.truths)
    for truth, presence, asked in zip(answers.truths, answers.presence, pairs, strict=True):
        for kind, positive, negative in asked:
            true[kind] += [True, False]
            predicted[kind] += [presence[positive] == "yes", presence[negative] == "yes"]
            if positive in OBJECT_LABELS:
                recall[_size(truth.shares[positive])].append(presence[positive] == "yes")
    table = Table("negatives", "questions", "F1", "always yes", title="Is there a …? (POPE)")
    found = {}
    for kind in SPLITS:
        found[kind] = float(f1_score(true[kind], predicted[kind]))
        table.add_row(kind, str(len(true[kind])), f"{found[kind]:.3f}", "0.667")
    every_true, every_predicted = _flat(true.values()), _flat(predicted.values())
    overall = float(f1_score(every_true, every_predicted))
    table.add_section()
    table.add_row("all", str(len(every_true)), f"{overall:.3f}", "0.667")
    by_size = {
        size: float(np.mean(hits)) if hits else float("nan") for size, hits in recall.items()
    }
    for size, value in by_size.items():
        table.add_row(f"recall, {size}", str(len(recall[size])), f"{value:.3f}", "1.000")
    return {
        "presence_f1": overall,
        "presence_f1_by_negatives": found,
        "presence_recall_by_size": by_size,
        "presence_f1_always_yes": 2 / 3,
    }, table


def _captions(answers: Answers) -> tuple[dict[str, object], Table]:
    true = np.array(
        [[label in truth.shares for label in OBJECT_LABELS] for truth in answers.truths]
    )
    named = [object_labels_in(caption) for caption in answers.captions]
    predicted = np.array([[label in names for label in OBJECT_LABELS] for names in named])
    always = np.broadcast_to(true.mean(axis=0) > 1 / 3, true.shape)
    f1, blind = (
        float(f1_score(true.ravel(), predicted.ravel())),
        float(f1_score(true.ravel(), always.ravel())),
    )
    table = Table("captions", "value", title="Objects named in captions")
    table.add_row("F1", f"{f1:.3f}")
    table.add_row("F1 of always naming the frequent ones", f"{blind:.3f}")
    table.add_row("precision", f"{(true & predicted).sum() / max(predicted.sum(), 1):.3f}")
    by_size = {}
    for size, (low, high) in SIZES.items():
        shares = np.stack([_shares(answers.truths, label) for label in OBJECT_LABELS], axis=1)
        here = (shares >= low) & (shares < high)
        by_size[size] = float(predicted[here].mean()) if here.any() else float("nan")
        table.add_row(f"recall, {size}", f"{by_size[size]:.3f}")
    return {
        "caption_object_f1": f1,
        "caption_object_f1_frequent": blind,
        "caption_recall_by_size": by_size,
    }, table


def _size(share: float) -> str:
    return next(size for size, (low, high) in SIZES.items() if low <= share < high)


def _flat(lists: Iterable[list[bool]]) -> list[bool]:
    return [value for values in lists for value in values]


def conditions(truths: Sequence[SceneTruth]) -> str:
    """How hard the benchmark is, in a sentence.

    Raises:
        RoadWorldTaskError: A label is too rare or too common, or too few of the objects are small.
    """
    present = [thing.share for truth in truths for thing in truth.objects if thing.share >= 0.001]
    small = float(np.mean(np.array(present) < SMALL_SHARE)) if present else 0.0
    frequency = {label: float((_shares(truths, label) > 0).mean()) for label in LABELS}
    low, high = min(frequency.values()), max(frequency.values())
    sentence = (
        f"Benchmark: {len(truths)} scenes; {small:.0%} of the present objects are small; labels "
        f"are in {low:.0%} to {high:.0%} of the scenes"
    )
    if len(truths) >= CONDITIONS_FROM and not (small >= 0.3 and low >= 0.05 and high <= 0.7):
        raise RoadWorldTaskError(
            f"the road world no longer produces the documented benchmark. {sentence}"
        )
    return sentence
