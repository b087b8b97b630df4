# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a report card: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from vlm_perception.evaluation.card import plots
from vlm_perception.evaluation.card.exams import Exam
from vlm_perception.evaluation.comparison.bootstrap import LEAST_IMAGES, Estimate
from vlm_perception.evaluation.comparison.compare import LEVEL, Difference
from vlm_perception.evaluation.machine_load import Load
from vlm_perception.evaluation.tasks.answer_figures import BINS, AnswerResults
from vlm_perception.evaluation.tasks.tag_figures import TagResults
from vlm_perception.outputs.page import page_template

MOST_CURVES = 30
"""Labels, the most frequent ones; the table has all."""
STAGES = ("encoder", "tower", "prefill", "decode")
TARGET_F1 = 0.85
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece", "chair_s", "chair_i", "neither"})
NEITHER_IS_BETTER = frozenset({"yes_ratio", "named"})
HEADLINES = {
    "tags.macro.ap": "tags, macro AP",
    "answers.mean.accuracy": "typed answers, accuracy",
    "answers.mean.ece": "typed answers, ECE",
    "pope.mean.f1": "POPE, mean F1",
    "retrieval.t2i.r1": "text to image, R@1",
    "hallucination.final.1.chair_i": "captions, CHAIR_i",
}
WORDS = {
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "ap": "AP",
    "f1": "F1",
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "chair_s": "CHAIR_s",
    "chair_i": "CHAIR_i",
    "i2t": "image to text",
    "t2i": "text to image",
}
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Examined:
    """What was found of one bundle."""

    name: str
    digest: str
    estimates: Mapping[str, Estimate]
    """Every figure by its full name, such as `pope.mean.f1`."""
    tags: TagResults | None
    answers: AnswerResults | None
    cost: Mapping[str, Any]
    """By the keys of `evaluate cost`."""


@dataclass(frozen=True)
class Cell:
    """One figure of each bundle."""

    estimates: Sequence[Estimate]
    verdict: str
    """`better` or `worse`, `other` where neither is; empty: no real difference."""


@dataclass(frozen=True)
class Section:
    """One evaluation: a table of figures, and plots."""

    title: str
    text: str
    plots: Sequence[Markup]
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell | None]]


def verdict(name: str, difference: Difference | None) -> str:
    """What the second bundle is in a figure beside the first: see Cell."""
    if difference is None or not difference.real:
        return ""
    kind = name.rpartition(".")[2]
    if kind in NEITHER_IS_BETTER:
        return "other"
    return "better" if (difference.value < 0) == (kind in LOWER_IS_BETTER) else "worse"


def write_page(
    bundles: Sequence[Examined],
    differences: Mapping[str, Difference],
    exams: Mapping[str, Sequence[Exam]],
    sets: Sequence[Mapping[str, str]],
    notes: Sequence[str],
    load: Load,
) -> str:
    """Render the page.

    Args:
        bundles: one, or two on the same images.
        differences: of the second from the first.
        exams: what other evaluations found of each bundle, by their names.
        sets: name, version and split of each.
        notes: sentences on what is left out.
        load: of the machine, while the cost was measured.
    """
    real = {name: each for name, each in differences.items() if each.real}
    template = page_template("vlm_perception.evaluation.card", "card.html.j2")
    return template.render(
        bundles=bundles,
        headlines=[
            (title, _cell(name, bundles, differences))
            for name, title in HEADLINES.items()
            if any(name in each.estimates for each in bundles)
        ],
        sections=[each for each in _sections(bundles, differences) if each is not None],
        compared=sum(each.told for each in differences.values()),
        untold=untold(sum(not each.told for each in differences.values())),
        level=LEVEL,
        real=sorted(real.items(), key=lambda item: (item[1].adjusted, item[0])),
        verdict=verdict,
        exams={name: _rows(found) for name, found in exams.items()},
        costs=_costs(bundles),
        latency=_latency(bundles),
        sets=sets,
        notes=notes,
        load=load,
        number=number,
        interval=interval,
        worded=worded,
    )


def untold(count: int) -> str:
    """A sentence on figures of which no difference can be told; empty where there is none."""
    if not count:
        return ""
    return (
        f"Of {count} more, too few images tell whether they differ: about {LEAST_IMAGES} are "
        "needed that both bundles have and that the figure is about."
    )


def number(value: float) -> str:
    """A figure as it is shown."""
    return "not known" if math.isnan(value) else f"{value:.3f}"


def worded(key: str) -> str:
    """A part of a figure's name as it is shown."""
    return WORDS.get(key, key.replace("_", " ").replace(".", ", "))


def interval(estimate: Estimate) -> str:
    """The bounds of a figure as they are shown; empty where they are not known."""
    if math.isnan(estimate.low):
        return ""
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _cell(
    name: str, bundles: Sequence[Examined], differences: Mapping[str, Difference]
) -> Cell | None:
    found = [each.estimates.get(name, UNKNOWN) for each in bundles]
    if all(math.isnan(each.value) for each in found):
        return None
    return Cell(found, verdict(name, differences.get(name)))


def _sections(
    bundles: Sequence[Examined], differences: Mapping[str, Difference]
) -> list[Section | None]:
    def section(start: str, title: str, text: str, *drawn: Markup | None) -> Section | None:
        every = dict.fromkeys(name for each in bundles for name in each.estimates)
        names = [name for name in every if name.startswith(f"{start}.")]
        if not names:
            return None
        split = [name.removeprefix(f"{start}.").rpartition(".") for name in names]
        columns = list(dict.fromkeys(column for _, _, column in split))
        rows = {
            row: [_cell(f"{start}.{row}.{column}", bundles, differences) for column in columns]
            for row in dict.fromkeys(row for row, _, _ in split)
        }
        return Section(title, text, [each for each in drawn if each is not None], columns, rows)

    scales = _middles(bundles, "hallucination.final.")
    return [
        section(
            "answers",
            "Typed answers",
            "NLL, Brier score and expected calibration error (ECE) are best at 0. In the diagram "
            "all questions are together.",
            _reliability(bundles),
        ),
        section(
            "tags",
            "Tags",
            "Average precision over all thresholds; F1 at the bundle's own.",
            _curves(bundles),
        ),
        section(
            "pope",
            "Object hallucination by polling (POPE): the likelier of yes and no",
            "",
            _plot(
                bundles, "pope.{}.f1", ["random", "popular", "adversarial", "mean"], "F1", TARGET_F1
            ),
        ),
        section("pope_free_text", "POPE: free text, read by the published rules", ""),
        section(
            "retrieval",
            "Retrieval",
            "Share of the queries that have a right item among the first. What a figure means "
            "depends on the pool, see the notes.",
            _plot(bundles, "retrieval.i2t.{}", ["r1", "r5", "r10"], "image to text"),
            _plot(bundles, "retrieval.t2i.{}", ["r1", "r5", "r10"], "text to image"),
        ),
        section(
            "hallucination",
            "Captions: objects that are not there",
            "Of whole captions, of what is shown while they are written (partial) and of what a "
            "deadline leaves (cut), with the towers' input shrunk.",
            _plot(bundles, "hallucination.final.{}.chair_i", scales, "CHAIR_i", joined=True),
            _plot(bundles, "hallucination.final.{}.recall", scales, "recall", joined=True),
        ),
    ]


def _middles(bundles: Sequence[Examined], start: str) -> list[str]:
    """What stands between a name's start and its last part, each once."""
    names = (name for each in bundles for name in each.estimates if name.startswith(start))
    return list(dict.fromkeys(name.removeprefix(start).rpartition(".")[0] for name in names))


def _plot(
    bundles: Sequence[Examined],
    pattern: str,
    ticks: Sequence[str],
    label: str,
    target: float | None = None,
    *,
    joined: bool = False,
) -> Markup | None:
    names = [pattern.format(tick) for tick in ticks]
    if not any(names and all(name in each.estimates for name in names) for each in bundles):
        return None
    series = [
        plots.Series(each.name, [each.estimates.get(name, UNKNOWN) for name in names])
        for each in bundles
    ]
    return plots.intervals(
        [worded(tick) for tick in ticks], series, label=label, target=target, joined=joined
    )


def _reliability(bundles: Sequence[Examined]) -> Markup | None:
    if all(each.answers is None for each in bundles):
        return None
    return plots.reliability([_bins(each.name, each.answers) for each in bundles])


def _bins(name: str, answers: AnswerResults | None) -> plots.Bins:
    """All questions together, in bins of equally many answers; none without answers."""
    if answers is None:
        return plots.Bins(name, np.empty(0), np.empty(0))
    questions = answers.questions
    sure = np.concatenate([each.sure[each.known] for each in questions])
    right = np.concatenate([each.right[each.known] for each in questions])
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return plots.Bins(
        name,
        np.array([sure[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
    )


def _curves(bundles: Sequence[Examined]) -> Markup | None:
    known = next((each.tags for each in bundles if each.tags is not None), None)
    shown = [] if known is None else known.told_labels()[:MOST_CURVES]
    drawn = {label: [_curve(each.tags, label) for each in bundles] for label in shown}
    return plots.curves(drawn) if drawn else None


def _curve(tags: TagResults | None, label: str) -> plots.Curve:
    """Empty without tags."""
    recall, precision = (np.empty(0), np.empty(0)) if tags is None else tags.curve(label)
    return plots.Curve(recall, precision)


def _rows(exams: Sequence[Exam]) -> dict[str, list[float | None]]:
    """The figures of each bundle by their names; None where it has none."""
    names = dict.fromkeys(name for exam in exams for name in exam)
    return {name: [exam.get(name) for exam in exams] for name in names}


def _costs(bundles: Sequence[Examined]) -> dict[str, list[str]]:
    """The cost of each bundle, by what it is, where it is known of any."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for each in bundles for key in each.cost):
        values = [each.cost.get(key) for each in bundles]
        if any(map(_is_known, values)):
            found[key] = [f"{x:.6g}" if _is_known(x) else number(math.nan) for x in values]
    return found


def _is_known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _latency(bundles: Sequence[Examined]) -> Markup:
    """The medians of what an analysis is made of; a bundle without a stage takes no time for it."""

    def median(bundle: Examined, stage: str) -> float:
        value = bundle.cost.get(f"{stage}_ms")
        return float(value) if value is not None and _is_known(value) else 0.0

    stages = [stage for stage in STAGES if any(median(each, stage) > 0 for each in bundles)]
    rows = {each.name: [median(each, stage) for stage in stages] for each in bundles}
    return plots.stacked(stages, rows, label="ms, median")
