# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The arms of a study of tags: what each has kept of the teacher, and which bars are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from vlm_perception.evaluation.distillation.arm import Arm, bounds, gain, range_of, retention
from vlm_perception.evaluation.distillation.seeds import BySeed, Interval, interval
from vlm_perception.evaluation.distillation.study import SeededRun, differences
from vlm_perception.evaluation.report import figure_table

TEACHER, STUDENT = "teacher", "student"
IMAGE_LABELS, DENSE_TRUTH, IMAGES_ONLY = "image_labels", "dense_truth", "images_only"
ARMS = {
    STUDENT: "distilled",
    IMAGE_LABELS: "image-labels",
    DENSE_TRUTH: "dense-truth",
    IMAGES_ONLY: "images-only",
}
"""Key of the figures -> name of the recipe."""
SAME = ("images", "views", "student.start", "student.size", "student.keep", "student.training")
"""Parts of their recipes in which two students must be alike to be compared."""
BAR = 0.95
"""Share of the reference that a student should keep, both corrected for chance."""


@dataclass(frozen=True)
class Comparison:
    """A figure of two arms, and the bar that it should reach."""

    key: str
    words: str
    first: str
    """Arm that is judged."""
    second: str
    """Arm that it is compared with."""
    retention: bool
    """What is kept, corrected for chance; else the difference in macro average precision."""
    bar: float | None
    """Least retention, or what the whole interval of a difference must be above."""


COMPARISONS = (
    Comparison("student_of_teacher", "distilled, kept of the teacher", STUDENT, TEACHER, True, BAR),
    Comparison(
        "student_over_image_labels",
        "distilled, more than by image labels",
        STUDENT,
        IMAGE_LABELS,
        False,
        0.0,
    ),
    Comparison(
        "student_over_dense_truth",
        "distilled, more than by the dense truth",
        STUDENT,
        DENSE_TRUTH,
        False,
        None,
    ),
    Comparison(
        "images_only_of_student",
        "images only, kept of the distilled one",
        IMAGES_ONLY,
        STUDENT,
        True,
        BAR,
    ),
    Comparison(
        "images_only_of_image_labels",
        "images only, kept of image labels",
        IMAGES_ONLY,
        IMAGE_LABELS,
        True,
        None,
    ),
)


@dataclass(frozen=True)
class Compared:
    """What came out of a comparison."""

    comparison: Comparison
    interval: Interval
    reached: bool | None
    """None: there is no bar, or the arms differ in more than they should."""


def compare(arms: Mapping[str, Arm], chance: BySeed, unlike: Sequence[str]) -> list[Compared]:
    """Every comparison of which both arms are there.

    Two arms of several seeds are compared seed by seed, over the seeds that both have.

    Args:
        arms: by key.
        chance: macro average precision without skill, of the same images.
        unlike: arms that are not like the distilled one where they should be.
    """
    found = []
    for each in COMPARISONS:
        if each.first not in arms or each.second not in arms:
            continue
        first, second = arms[each.first], arms[each.second]
        figure = retention(first, second, chance) if each.retention else gain(first, second)
        whole = interval(figure)
        alike = not {each.first, each.second} & set(unlike)
        found.append(Compared(each, whole, _reached(each, whole) if alike else None))
    return found


def _reached(comparison: Comparison, found: Interval) -> bool | None:
    if comparison.bar is None:
        return None
    return found.value >= comparison.bar if comparison.retention else found.low > comparison.bar


def unlike(runs: Mapping[str, Sequence[SeededRun]]) -> dict[str, list[str]]:
    """Of each student's arm that is not like the distilled one, in what it differs."""
    if STUDENT not in runs:
        return {}
    reference = runs[STUDENT][0].recipe
    found = {
        key: differences(reference, runs[key][0].recipe, SAME)
        for key in (IMAGE_LABELS, DENSE_TRUTH, IMAGES_ONLY)
        if key in runs
    }
    return {key: changes for key, changes in found.items() if changes}


def as_json(arms: Mapping[str, Arm], compared: Sequence[Compared]) -> dict[str, object]:
    """The figures by their keys."""
    figures: dict[str, object] = {}
    for key, arm in arms.items():
        figures[key] = {**bounds("macro_ap", interval(arm.figure)), "seeds": list(arm.seeds)}
    comparisons = {}
    for each in compared:
        name = "retention" if each.comparison.retention else "difference"
        comparisons[each.comparison.key] = {
            **bounds(name, each.interval),
            "seeds": each.interval.seeds,
            "bar": each.comparison.bar,
            "reached": each.reached,
        }
    return {**figures, "comparisons": comparisons}


def tables(
    arms: Mapping[str, Arm], compared: Sequence[Compared], chance: float, scenes: int
) -> list[Table]:
    """The same for people."""
    caption = (
        f"Chance is {chance:.3f}. Intervals of 95 %, over seeds and images; * over images "
        "alone, as seeds are too few to tell"
    )
    first = figure_table(
        f"Macro average precision of tags, on {scenes} unseen scenes",
        "arm", "seeds", "macro AP", "95 %",
        caption=caption,
    )  # fmt: skip
    for key, arm in arms.items():
        found = interval(arm.figure)
        name, value = ARMS.get(key, key), f"{found.value:.4f}"
        first.add_row(name, str(found.seeds), value, range_of(found, 4))
    second = figure_table(
        "What was kept",
        "comparison", "", "95 %", "bar", "",
        caption="Retention is (AP - chance) / (AP of the reference - chance)",
    )  # fmt: skip
    for each in compared:
        bar = each.comparison.bar
        shown = "" if bar is None else f"{bar:.2f}" if each.comparison.retention else "> 0"
        verdict = "" if each.reached is None else "reached" if each.reached else "not reached"
        sign = "" if each.comparison.retention else "+"
        second.add_row(
            each.comparison.words,
            f"{each.interval.value:{sign}.4f}",
            range_of(each.interval, 4),
            shown,
            verdict,
        )
    return [first, second] if compared else [first]
