# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a precision config costs by calibration alone, and what training for it wins back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.export_error import ExportError
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.deploy.compression.precision_config import (
    CONFIG_NAME,
    read_config,
    write_config,
)
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import exported
from vlm_perception.evaluation.compression.cases import CALIBRATION_IMAGES, CALIBRATION_SIZE
from vlm_perception.evaluation.distillation.arm import Arm, bounds, gain, gather, range_of
from vlm_perception.evaluation.distillation.seeds import BySeed, Interval, interval
from vlm_perception.evaluation.distillation.study import SeededRun, StudyError
from vlm_perception.evaluation.report import figure_table

FP32, QAT = "fp32", "qat"
METHODS: Mapping[str, dict[str, object]] = {
    "as configured": {},
    "min-max": {"method": "min-max"},
    "99.9 %": {"method": "percentile", "percentile": 99.9},
    "99.99 %": {"method": "percentile", "percentile": 99.99},
    "least squares": {"method": "mse"},
}
"""How calibration finds ranges; training must beat the best one."""
LEAST_LOSS = 0.01
"""What the best calibration should lose, or training has nothing to win back."""
WON_BACK = 0.7
"""Share of that loss that training should win back."""


def quantized_bundles(run: SeededRun, folder: Path) -> dict[str, ModelBundle]:
    """The bundles of a run by their `key`: float, calibrated by each method, and trained.

    Methods that the export refuses are left out: with few bits the graphs of CPU and GPU may give
    too different results.

    Args:
        run: whose part `quantization` is complete.
        folder: for the bundles and the images to calibrate with; it exists.

    Raises:
        StudyError: the checkpoint that it began with is not there any more.
        ExportError: a checkpoint cannot be exported, or by no method.
    """
    trained, source, keep = run.done("quantization"), run.unquantized, run.keep
    assert trained is not None
    if source is None:
        raise StudyError(
            f"{run.folder}: the checkpoint that `quantization` began with is no longer where the "
            "recipe says; put it back there, or move the run out of the folder"
        )
    calibration, bundles = folder / "calibration-600", folder / "bundles"
    write_images(calibration, CALIBRATION_IMAGES, CALIBRATION_SIZE)
    pruned = ExportOptions(
        keep=keep or None, calibration=calibration if keep else None, validate=False
    )
    int8 = replace(pruned, precision="int8-mixed", calibration=calibration)
    float_key, trained_key = key(run, FP32), key(run, QAT)
    found = {float_key: exported(source, bundles / float_key, pruned)}
    plan, refused = read_config(trained / CONFIG_NAME), dict[str, ExportError]()
    for name, settings in METHODS.items():
        place = key(run, name)
        file = folder / f"{place}.yaml"
        write_config(plan.model_copy(update={**settings, "measured": None}), file)
        options = replace(int8, precision_config=file)
        try:
            found[place] = exported(source, bundles / place, options)
        except ExportError as error:
            refused[name] = error
    if len(refused) == len(METHODS):
        raise next(iter(refused.values()))
    found[trained_key] = exported(trained, bundles / trained_key, int8)
    return found


def _plain(name: str) -> str:
    """A name for files."""
    return name.replace(" %", "").replace(" ", "-")


@dataclass(frozen=True)
class Plan:
    """A precision config, judged."""

    name: str
    cases: Mapping[str, Interval]
    """Macro average precision."""
    best: str
    """Method of calibration that loses least."""
    lost: Interval
    """By the best calibration, of the float model's macro average precision."""
    gained: Interval
    """By training, over the best calibration."""

    @property
    def won_back(self) -> float:
        """Share of the loss; NaN where nothing was lost."""
        return self.gained.value / self.lost.value if self.lost.value > 0 else float("nan")

    @property
    def hard(self) -> bool:
        """Whether there is something to be won back."""
        return self.lost.value >= LEAST_LOSS

    @property
    def reached(self) -> bool:
        """Whether training wins enough back or, where nothing is lost, does not lose."""
        return self.won_back >= WON_BACK if self.hard else self.gained.high >= 0


def judge(runs: Sequence[SeededRun], figures: Mapping[str, BySeed]) -> Plan:
    """A precision config by the runs of its recipe.

    Args:
        runs: its seeds.
        figures: macro average precision by `key`.
    """
    methods = [each for each in METHODS if all(key(run, each) in figures for run in runs)]
    arms: dict[str, Arm] = {
        case: gather(runs, {run.name: figures[key(run, case)] for run in runs})
        for case in (FP32, *methods, QAT)
    }
    best = max(methods, key=lambda method: float(np.mean(arms[method].figure.whole)))
    return Plan(
        runs[0].recipe.name,
        {case: interval(arm.figure) for case, arm in arms.items()},
        best,
        interval(gain(arms[FP32], arms[best])),
        interval(gain(arms[QAT], arms[best])),
    )


def key(run: SeededRun, case: str) -> str:
    """Name of a bundle of a run."""
    return f"{run.name}-{_plain(case)}"


def as_json(plans: Sequence[Plan]) -> dict[str, object]:
    """The figures by their keys."""
    return {
        plan.name: {
            **{
                name: {"value": found.value, "low": found.low, "high": found.high}
                for name, found in (
                    ("fp32", plan.cases[FP32]),
                    ("ptq", plan.cases[plan.best]),
                    ("qat", plan.cases[QAT]),
                )
            },
            "ptq_by_method": {
                method: plan.cases[method].value if method in plan.cases else None
                for method in METHODS
            },
            "best_method": plan.best,
            **bounds("lost", plan.lost),
            **bounds("gained", plan.gained),
            "won_back": plan.won_back,
            "hard": plan.hard,
            "reached": plan.reached,
        }
        for plan in plans
    }


def table(plans: Sequence[Plan], scenes: int) -> Table:
    """The same for people."""
    shown = figure_table(
        f"Training for a precision config, macro AP on {scenes} unseen scenes",
        "config", "case", "macro AP", "95 %",
        words=2,
        caption="* the best calibration, which training is compared with",
    )  # fmt: skip
    for plan in plans:
        for case in (FP32, *METHODS, QAT):
            found = plan.cases.get(case)
            if found is None:
                shown.add_row(plan.name, case, "", "refused by export")
                continue
            name = f"{case} *" if case == plan.best else case
            shown.add_row(plan.name, name, f"{found.value:.4f}", range_of(found, 4))
        shown.add_section()
    return shown


def sentences(plans: Sequence[Plan]) -> list[str]:
    """What was lost and won back, for people."""
    return [_sentence(plan) for plan in plans]


def _sentence(plan: Plan) -> str:
    verdict = "reached" if plan.reached else "not reached"
    lost = (
        f"{plan.name}: the best calibration loses {100 * plan.lost.value:.2f} points "
        f"({range_of(plan.lost, 4)})"
    )
    if not plan.hard:
        return (
            f"{lost}; training must not lose more: {100 * plan.gained.value:+.2f} points "
            f"({range_of(plan.gained, 4)}), {verdict}"
        )
    return f"{lost}; training wins back {plan.won_back:.0%} of it, of {WON_BACK:.0%}: {verdict}"
