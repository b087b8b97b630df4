# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A task on which a model is evaluated, sample by sample."""

from __future__ import annotations

from typing import Protocol, TypeVar

from rich.progress import track

from vlm_perception.datasets.sample import Dataset, Sample
from vlm_perception.evaluation.report import Report

S = TypeVar("S", bound=Sample)
S_contra = TypeVar("S_contra", bound=Sample, contravariant=True)


class Task(Protocol[S_contra]):
    """A bundle running on samples; keeps its outputs and the ground truth for each."""

    def take(self, sample: S_contra) -> object:
        """Let the bundle work on one sample."""

    def report(self) -> Report:
        """The result over all samples so far."""


def run_task(task: Task[S], samples: Dataset[S]) -> Report:
    """Go through a data set, with a progress bar."""
    for sample in track(samples, "Evaluating", transient=True):
        task.take(sample)
    return task.report()
