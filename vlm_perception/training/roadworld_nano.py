# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Trains `roadworld-nano` from nothing, by a recipe of `vlm-perception distil`."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlm_perception.common.share import share_folder
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.training.distillation.run import distil

VERB = "train roadworld"
CHECKPOINT, WORK = "checkpoint", "work"
RESULTS = (f"{CHECKPOINT}/*", f"{CHECKPOINT}/*/*")


def recipe_file() -> Path:
    """What is trained on what, and for how long."""
    return share_folder() / "config" / "distillation" / "roadworld-nano.yaml"


def train(out: Path, seed: int) -> Path:
    """Train the student from nothing, or go on where an earlier run stopped.

    Args:
        out: takes the rendered scenes, logs and states in `work`, and the result.
        seed: of the weights and the order of samples.

    Returns:
        The checkpoint directory, `out`/checkpoint, ready for `vlm-perception export`.

    Raises:
        DistillationError: a run with another seed was begun in `out`.
        OutputError: other files are in the result's place, or in the working folders.
    """
    with ResultsFolder(out, VERB, RESULTS) as results:
        if results.left_over:
            results.clear()
        *_, finished = distil(recipe_file(), out / WORK, seed=seed)
        result = results.work / CHECKPOINT
        shutil.copytree(finished, result, ignore=shutil.ignore_patterns("training"))
        results.publish()
    return out / CHECKPOINT
