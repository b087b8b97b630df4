# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what the teacher of a run has said of its images."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.training.distillation.examples import Images
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import DistillationError
from vlm_perception.training.distillation.teacher.language import Words
from vlm_perception.training.distillation.teacher.store import WORDS, Taught, store_of
from vlm_perception.training.distillation.teacher.words import read_words


def taught_by(run: Run, images: Images) -> Taught:
    """The outputs of its dual encoder.

    Raises:
        DistillationError: they are missing, or about other images.
    """
    folder = _finished(run)
    taught = Taught.of_part(folder)
    if taught.images_digest != images.digest:
        raise DistillationError(
            f"{folder} is about other images than the recipe's; remove it, and it is made again"
        )
    return taught


def words_of(run: Run, images: Images) -> dict[tuple[int, int], Words]:
    """The words of its language model, by the number of the image and that of the view.

    Raises:
        DistillationError: they are missing, damaged or about other images.
    """
    return read_words(store_of(_finished(run)) / WORDS, images)


def _finished(run: Run) -> Path:
    folder = run.done("teacher")
    if folder is None:
        raise DistillationError("the part `teacher` was not made; leave --only out, or make it")
    return folder
