# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The report card of a bundle, or of two beside each other, with the differences that are real."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.evaluation.card.exams import read_exams
from vlm_perception.evaluation.card.page import (
    HEADLINES,
    UNKNOWN,
    Examined,
    interval,
    number,
    untold,
    verdict,
    write_page,
)
from vlm_perception.evaluation.card.parts import Candidate, CardError, Material, Part, evaluated
from vlm_perception.evaluation.comparison.bootstrap import estimate
from vlm_perception.evaluation.comparison.compare import LEVEL, Difference, compare
from vlm_perception.evaluation.comparison.scored import Scored
from vlm_perception.evaluation.cost import evaluate as cost
from vlm_perception.evaluation.image_sets import left_out
from vlm_perception.evaluation.machine_load import Load
from vlm_perception.evaluation.pope.questions import PUBLISHED
from vlm_perception.evaluation.report import Report, figure_table, finite
from vlm_perception.evaluation.tasks.answer_figures import AnswerResults
from vlm_perception.evaluation.tasks.tag_figures import TagResults
from vlm_perception.outputs.file import write_whole
from vlm_perception.outputs.own import own_folder

VERB = "evaluate report"
PAGE, FIGURES = "report.html", "report.json"
COST_SCENES = 50
MOST_TOLD = 12
"""Differences that are printed; the page has all."""

T = TypeVar("T")


def run(
    bundle: str,
    against: str | None,
    out: Path,
    *,
    data: Path | None,
    scenes: int,
    wording: str = PUBLISHED,
    skip_broken: bool = False,
    exams: Sequence[Path] = (),
) -> Report:
    """Evaluate what the data allow, and write the page and its figures.

    Args:
        bundle: name or path of the bundle.
        against: of another one, to be compared with it.
        out: folder for the page, the figures, and all that was finished.
        data: a folder of images with captions, objects or answers; None: the road world.
        scenes: how many of the road world.
        wording: of POPE's questions about `data`, with {} in place of the object.
        skip_broken: leave out images that are missing or broken.
        exams: figures of other evaluations of the same bundles.

    Raises:
        BundleError: a bundle cannot be used.
        ExamError: a file of `exams` cannot be used.
        CardError: the data allow nothing, or both bundles are the same.
        VlmPerceptionError: the data cannot be used.
        OutputError: `out` is another's.
    """
    models = [ModelBundle.load(each) for each in (bundle, against) if each is not None]
    if len({model.digest for model in models}) < len(models):
        raise CardError(f"{bundle} and {against} are the same bundle; compare it with another one")
    passed = read_exams(exams, models)
    vocabulary = _unlike(name for model in models for name in model.manifest.vocabulary.names)
    material = Material(data, scenes, wording, skip_broken, vocabulary)
    inputs = [*(model.path for model in models), *([] if data is None else [data]), *exams]
    with own_folder(out, VERB, inputs) as folder:
        parts = [evaluated(Candidate(model, _kept(folder, model)), material) for model in models]
        costs = [cost.run(str(model.path), scenes=COST_SCENES, threads=1) for model in models]
        load = _worst(each.load for each in costs)
        bundles = [
            _examined(name, model, its, of_cost.figures)
            for name, model, its, of_cost in zip(_names(models), models, parts, costs, strict=True)
        ]
        differences = compare(_pairs(*parts)) if len(parts) == 2 else {}
        sets = _unlike(each for its in parts for part in its for each in part.sets)
        notes = _unlike(each for its in parts for part in its for each in part.notes)
        write_whole(folder / PAGE, write_page(bundles, differences, passed, sets, notes, load))
        content = {"valid": load.quiet, "load": load.as_json()}
        content |= _content(bundles, parts, sets, differences)
        if passed:
            content["exams"] = {
                name: {each.digest: exam for each, exam in zip(models, found, strict=True)}
                for name, found in passed.items()
            }
        write_whole(folder / FIGURES, json.dumps(finite(content), indent=2) + "\n")
    written = f"Written to {out / PAGE} and {out / FIGURES}"
    told: list[RenderableType] = [
        _table(bundles, differences),
        *_told(bundles, differences),
        *notes,
        written,
    ]
    return Report(told, load=load)


def _kept(folder: Path, model: ModelBundle) -> Path:
    """The folder of what was finished of a bundle."""
    place = folder / model.digest[:16]
    place.mkdir(exist_ok=True)
    return place


def _names(models: Sequence[ModelBundle]) -> list[str]:
    """Names that differ."""
    names = [model.manifest.name for model in models]
    if len(set(names)) == len(names):
        return names
    return [f"{model.manifest.name} {model.digest[:6]}" for model in models]


def _worst(loads: Iterable[Load | None]) -> Load:
    """The largest load of several measurements."""
    known = [each for each in loads if each is not None]
    return Load(max(each.before for each in known), max(each.during for each in known))


def _examined(
    name: str, model: ModelBundle, parts: Sequence[Part], costs: Mapping[str, Any] | None
) -> Examined:
    every = [scored for part in parts for scored in part.scored.values()]
    estimates = {key: found for scored in every for key, found in estimate(scored).items()}
    tags = next((each for each in every if isinstance(each, TagResults)), None)
    answers = next((each for each in every if isinstance(each, AnswerResults)), None)
    found = dict(costs or {})
    return Examined(name, model.digest, estimates, tags, answers, found.get("cost", {}))


def _pairs(first: Sequence[Part], second: Sequence[Part]) -> list[tuple[Scored, Scored]]:
    """Results that have figures in common, part by part."""
    ours, theirs = (
        {name: scored for part in its for name, scored in part.scored.items()}
        for its in (first, second)
    )
    return [(ours[name], theirs[name]) for name in ours if name in theirs]


def _unlike(values: Iterable[T]) -> list[T]:
    """Each once, in their order."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _content(
    bundles: Sequence[Examined],
    parts: Sequence[Sequence[Part]],
    sets: Sequence[Mapping[str, Any]],
    differences: Mapping[str, Difference],
) -> dict[str, object]:
    """The figures by their JSON keys."""
    of_each = [
        {
            "bundle_digest": each.digest,
            **{key: value for part in its for key, value in part.figures.items()},
            "cost": each.cost,
        }
        for each, its in zip(bundles, parts, strict=True)
    ]
    broken = _unlike(name for its in parts for part in its for name in part.broken)
    content = {**of_each[0], "sets": sets, "broken": left_out(broken)}
    if len(of_each) == 1:
        return content
    compared = {
        name: {**asdict(each), "difference": each.value, "real": each.real}
        for name, each in differences.items()
    }
    return {**content, "against": of_each[1], "differences": compared}


def _table(bundles: Sequence[Examined], differences: Mapping[str, Difference]) -> Table:
    last = ["really"] if len(bundles) > 1 else []
    table = figure_table(
        "Report card", "figure", *(each.name for each in bundles), *last, caption="(95 % interval)"
    )
    for name, title in HEADLINES.items():
        found = [each.estimates.get(name, UNKNOWN) for each in bundles]
        if any(name in each.estimates for each in bundles):
            cells = [
                f"{number(each.value)} ({interval(each)})" if interval(each) else number(each.value)
                for each in found
            ]
            table.add_row(title, *cells, *([verdict(name, differences.get(name))] if last else []))
    return table


def _told(bundles: Sequence[Examined], differences: Mapping[str, Difference]) -> list[str]:
    """Which differences are real, a sentence each."""
    if len(bundles) == 1:
        return []
    real = sorted((each.adjusted, name) for name, each in differences.items() if each.real)
    known = sum(each.told for each in differences.values())
    told = [f"{len(real)} of {known} figures really differ (Holm, {LEVEL:.0%})"]
    if known < len(differences):
        told.append(untold(len(differences) - known))
    for _, name in real[:MOST_TOLD]:
        each = differences[name]
        told.append(
            f"  {name}: {number(each.first)} and {number(each.second)}, {each.value:+.3f} "
            f"({each.low:+.3f} to {each.high:+.3f}); {bundles[1].name} is {verdict(name, each)}"
        )
    rest = len(real) - MOST_TOLD
    return [*told, f"  and {rest} more, see {PAGE}"] if rest > 0 else told
