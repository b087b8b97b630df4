# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluations of a card: those that the data allow. Each goes on where it was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.datasets.answered_images import ANSWERS_FILE
from vlm_perception.datasets.captions_file import CAPTIONS_FILE
from vlm_perception.datasets.labelled_objects import OBJECTS_FILE
from vlm_perception.evaluation.card.known_images import KnownFolder, KnownSet, KnownStreets
from vlm_perception.evaluation.card.scenes import look_at
from vlm_perception.evaluation.comparison.bootstrap import estimate
from vlm_perception.evaluation.comparison.scored import Renamed, Scored
from vlm_perception.evaluation.hallucination import evaluate as hallucination
from vlm_perception.evaluation.hallucination import figures as invention
from vlm_perception.evaluation.hallucination.describer import Describer
from vlm_perception.evaluation.hallucination.looked_for import LookedFor
from vlm_perception.evaluation.image_data import open_data
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.labelled_images import LabelledFolder, LabelledSet, LabelledStreets
from vlm_perception.evaluation.pope import metrics as polling
from vlm_perception.evaluation.pope import sets as pope_sets
from vlm_perception.evaluation.pope.poll import MOST_TOKENS, Polled, poll
from vlm_perception.evaluation.retrieval import evaluate as retrieval
from vlm_perception.evaluation.retrieval import figures as recalls
from vlm_perception.evaluation.retrieval.sets import CaptionedFolder, CaptionedSet, CaptionedStreets
from vlm_perception.evaluation.road_world import EXAM_SEED

Figures = Mapping[str, Any]
"""By their JSON keys."""


class CardError(VlmPerceptionError):
    """There is nothing to make a card of; the message says what is missing."""


@dataclass(frozen=True)
class Material:
    """What bundles are evaluated on."""

    folder: Path | None
    """With images and what is known of them; None: the road world."""
    scenes: int
    """Of the road world."""
    wording: str
    """Of POPE's questions about the folder."""
    skip_broken: bool
    vocabulary: Sequence[str]
    """Of all bundles: captions of each are searched for the same objects."""

    def has(self, *files: str) -> bool:
        """Whether one of these files is in the folder; the road world has all."""
        return self.folder is None or any(map(open_data(self.folder).has, files))

    @property
    def seeds(self) -> range:
        """Of the road world's scenes."""
        return range(EXAM_SEED, EXAM_SEED + self.scenes)


@dataclass(frozen=True)
class Part:
    """One evaluation of one bundle."""

    scored: Mapping[str, Scored]
    """By what they are of. Figures have full names, such as `pope.mean.f1`, each only once."""
    figures: Figures
    sets: Sequence[Mapping[str, str]]
    """Name, version and split of each, and what it was used for."""
    notes: Sequence[str]
    broken: Sequence[str]
    """Images that are left out."""


@dataclass(frozen=True)
class Candidate:
    """A bundle that is evaluated, and where what was finished is kept."""

    bundle: ModelBundle
    folder: Path

    def journal(self, name: str, identity: Mapping[str, Any]) -> Journal:
        """What this bundle has finished of an evaluation.

        Args:
            name: of the evaluation.
            identity: what results depend on, beside the bundle and the program.
        """
        return Journal.named(self.folder, name, {"bundle": self.bundle.digest, **identity})

    @property
    def talks(self) -> bool:
        """Whether the bundle has a language model."""
        return self.bundle.manifest.language is not None


def tags_and_answers(candidate: Candidate, material: Material) -> Part | None:
    """Tags against labels, typed answers against true ones."""
    if not material.has(OBJECTS_FILE, ANSWERS_FILE):
        return None
    questions, folder = candidate.bundle.manifest.questions, material.folder
    chosen: KnownSet = (
        KnownStreets(material.seeds, questions)
        if folder is None
        else KnownFolder(folder, questions, skip_broken=material.skip_broken)
    )
    seen = look_at(candidate.bundle, chosen, candidate.journal)
    both = {"tags": seen.tags(), "answers": seen.answers()}
    found: dict[str, Scored] = {name: each for name, each in both.items() if each is not None}
    if not found:
        return None
    sets = [{**seen.described, "of": " and ".join(found)}]
    return Part(found, _nested(found.values()), sets, chosen.notes(), chosen.broken)


def retrieved(candidate: Candidate, material: Material) -> Part | None:
    """Images and captions that find each other."""
    if not material.has(CAPTIONS_FILE):
        return None
    chosen: CaptionedSet = (
        CaptionedStreets(material.seeds)
        if material.folder is None
        else CaptionedFolder(material.folder, skip_broken=material.skip_broken)
    )
    found = retrieval.examine(candidate.bundle, chosen, candidate.folder)
    figures = recalls.figures(found.records)
    pool = "; ".join(
        f"{words}: {figures[way]['pool']} items, of which chance finds "
        f"{figures[way]['r1_chance']:.3f} at 1"
        for way, words in retrieval.WORDS.items()
    )
    scored = {"retrieval": Renamed(recalls.scored(found.records), "retrieval")}
    notes = [f"Retrieval, {pool}", *found.notes]
    sets = [{**found.described, "of": "retrieval"}]
    return Part(scored, {"retrieval": figures}, sets, notes, chosen.broken)


def polled(candidate: Candidate, material: Material) -> Part | None:
    """POPE's questions on objects."""
    if not (candidate.talks and material.has(OBJECTS_FILE)):
        return None
    asked = (
        pope_sets.road_world(material.scenes)
        if material.folder is None
        else pope_sets.labelled_folder(
            material.folder, material.wording, skip_broken=material.skip_broken
        )
    )
    with candidate.journal("pope", {"tokens": MOST_TOKENS}) as journal:
        records = poll(Polled(candidate.bundle), asked, journal)
    versions = asked.versions()
    sets = [
        {"name": asked.name, "version": version, "split": split, "of": "pope"}
        for split, version in versions.items()
    ]
    found = {
        "pope": polling.by_likelihood(records),
        "pope_free_text": polling.by_free_text(records),
    }
    notes = [f"POPE: {each}" for each in asked.notes()]
    return Part(found, polling.figures(records), sets, notes, asked.images.broken)


def described(candidate: Candidate, material: Material) -> Part | None:
    """Captions against labelled objects."""
    if not (candidate.talks and material.has(OBJECTS_FILE)):
        return None
    chosen: LabelledSet = (
        LabelledStreets(material.seeds)
        if material.folder is None
        else LabelledFolder(material.folder, skip_broken=material.skip_broken)
    )
    looked_for = LookedFor.of(chosen, material.folder, material.vocabulary)
    names = looked_for.names
    with candidate.journal("captions", {"names": looked_for.identity}) as journal:
        records = hallucination.describe(chosen, names, Describer(candidate.bundle, names), journal)
    found = {
        name: Renamed(invention.scored(records, scale, text), name)
        for text in invention.TEXTS
        for scale in invention.SCALES
        for name in [f"hallucination.{text}.{scale}"]
    }
    figures = {"hallucination": invention.figures(records)}
    sets = [{**chosen.described(), "of": "hallucination"}]
    notes = [f"Captions: {each}" for each in looked_for.notes()]
    return Part(found, figures, sets, [*notes, *chosen.notes()], chosen.broken)


PARTS: Sequence[Callable[[Candidate, Material], Part | None]] = (
    tags_and_answers,
    retrieved,
    polled,
    described,
)


def evaluated(candidate: Candidate, material: Material) -> list[Part]:
    """Everything that the data and the bundle allow.

    Raises:
        CardError: nothing is allowed.
        VlmPerceptionError: the data cannot be used.
    """
    if not material.has(CAPTIONS_FILE, OBJECTS_FILE, ANSWERS_FILE):
        raise CardError(
            f"{material.folder} has neither {CAPTIONS_FILE} nor {OBJECTS_FILE} nor "
            f"{ANSWERS_FILE}; put one there, or leave --data out for the road world"
        )
    parts = [found for part in PARTS if (found := part(candidate, material)) is not None]
    if not parts:
        raise CardError(
            f"bundle {candidate.bundle.manifest.name} has no language model, and the data of "
            f"{material.folder} need one; add {OBJECTS_FILE} or {CAPTIONS_FILE}"
        )
    return parts


def _nested(scored: Iterable[Scored]) -> dict[str, Any]:
    """Estimates by the parts of their names, `tags.car.ap` with `ap_low` and `ap_high`."""
    every: dict[str, Any] = {}
    for each in scored:
        for name, found in estimate(each).items():
            start, _, rest = name.partition(".")
            # A label may hold a point.
            of, _, kind = rest.rpartition(".")
            place = every.setdefault(start, {}).setdefault(of, {})
            place |= {kind: found.value, f"{kind}_low": found.low, f"{kind}_high": found.high}
    return every
