# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `student` of a run: trains a dual encoder by the losses of the recipe."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlm_perception.bundle.manifest import KeepStep
from vlm_perception.modeling.token_pruning import parse_schedule
from vlm_perception.training.distillation.examples import Images, View, draw_views
from vlm_perception.training.distillation.images.open import open_images
from vlm_perception.training.distillation.images.road_world import learned
from vlm_perception.training.distillation.learned import overlap
from vlm_perception.training.distillation.losses.batch import TaughtTargets
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    Recipe,
    RoadWorldImages,
    Student,
)
from vlm_perception.training.distillation.student.batches import Batch, Batches, order, resampled
from vlm_perception.training.distillation.student.build import begin, inherits
from vlm_perception.training.distillation.student.encoder import StudentEncoder
from vlm_perception.training.distillation.student.objective import (
    LOSSES,
    NAMED,
    TAUGHT,
    TRUE,
    StudentObjective,
)
from vlm_perception.training.distillation.student.result import save_result
from vlm_perception.training.distillation.teacher.read import taught_by
from vlm_perception.training.distillation.teacher.store import Taught
from vlm_perception.training.loop import LAST, Clock, Schedule, fit
from vlm_perception.training.loop import Run as LoopRun
from vlm_perception.training.processes import Processes
from vlm_perception.training.tower import forget

EXAMPLES = 64
"""Images by which the parts of a teacher are ranked that is cut."""
FEWEST = 256
"""Images of a batch, with fewer of which contrast is weak."""
LARGE = 1_000_000_000
"""Parameters from which on activations are computed again instead of kept."""
WORTH_COMPILING = 50_000
"""Images, over all steps."""
BEGUN, TRAINING = "begun", "training"

_log = logging.getLogger(__name__)


def make(run: Run, work: Path) -> None:
    """Train the student, or go on where an interrupted run was.

    Raises:
        DistillationError: the teacher's outputs are missing, or about other images.
        ExportError: a checkpoint cannot be used.
        VlmPerceptionError: an image cannot be read, or a loss is not finite.
    """
    recipe = run.recipe
    student = recipe.student
    assert student is not None
    processes = Processes()
    images = open_images(recipe.images, run.home, recipe.languages, run.out)
    has_encoder = recipe.teacher is not None and recipe.teacher.encoder is not None
    taught = taught_by(run, images) if has_encoder else None
    if processes.first and not (work / TRAINING / LAST).exists():
        begin(recipe, run.home, work / BEGUN, partial(_examples, images, student))
    processes.wait()
    trainer = _Trainer(recipe, student, images, taught, processes, work)
    trainer.train()
    if processes.first:
        held_out = _held_out(run, student)
        save_result(recipe, trainer.encoder, images, held_out, taught, work / BEGUN, work)
        (work / TRAINING / LAST).unlink(missing_ok=True)
        shutil.rmtree(work / BEGUN)
    processes.wait()


def _held_out(run: Run, student: Student) -> Images | None:
    if student.held_out is None:
        return None
    return open_images(student.held_out, run.home, run.recipe.languages, run.out)


def check(run: Run) -> None:
    """Refuse losses about what is not known, and batches that are larger than the set.

    Raises:
        DistillationError: there is one.
        VlmPerceptionError: the images cannot be listed.
    """
    recipe, student = run.recipe, run.recipe.student
    assert student is not None
    for name in student.losses:
        if missing := _missing(name, recipe):
            raise DistillationError(f"the loss {name} needs {missing}, or leave the loss out")
    _check_held_out(recipe, student)
    images = open_images(recipe.images, run.home, recipe.languages, run.out)
    if "contrastive" in student.losses and not images.captioned:
        raise DistillationError(
            "the loss contrastive needs captions, which these images have not; add captions.jsonl, "
            "or leave the loss out"
        )
    batch = student.training.batch
    student.training.require_batch(len(images))
    coupled = [name for name in ("contrastive", "affinity") if name in student.losses]
    if coupled and batch < FEWEST:
        _log.warning(
            "%s: images are compared within a batch, and it has %d; %d are usual",
            " and ".join(coupled), batch, FEWEST,
        )  # fmt: skip


def _check_held_out(recipe: Recipe, student: Student) -> None:
    if student.held_out is None:
        return
    if not isinstance(recipe.images, RoadWorldImages):
        raise DistillationError(
            f"`held_out` scenes fit the road world's labels, and images of kind "
            f"{recipe.images.kind} have others; leave `held_out` out"
        )
    if known := overlap(learned(recipe.images), learned(student.held_out)):
        raise DistillationError(
            f"the student learns from {known.count} of the `held_out` scenes, such as "
            f"{known.example}; choose others"
        )


def _missing(name: str, recipe: Recipe) -> str:
    """What a loss needs that a recipe does not give; empty: nothing."""
    teacher = recipe.teacher
    if name not in LOSSES:
        raise DistillationError(f"there is no loss {name!r}; choose of {', '.join(LOSSES)}")
    if name in TRUE and recipe.images.kind != "road-world":
        return "the truth of rendered images: take scenes of the road world"
    if name in TAUGHT and (teacher is None or teacher.encoder is None):
        return "a teacher's dual encoder: name it in `teacher.encoder`"
    if name == "patches" and teacher is not None and not teacher.patches:
        return "the teacher's patches: set `teacher.patches`"
    if name in NAMED and teacher is not None and not teacher.labels:
        return "labels: name them in `teacher.labels`"
    return ""


def _examples(images: Images, student: Student) -> Tensor:
    """Images as the student sees them, uint8 [N, H, W, 3]."""
    chosen = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).astype(int)
    seen = [images.example(int(i), View(), student.size, (1, 1)).image for i in chosen]
    return torch.from_numpy(np.stack(seen))


class _Trainer:
    def __init__(
        self,
        recipe: Recipe,
        student: Student,
        images: Images,
        taught: Taught | None,
        processes: Processes,
        work: Path,
    ) -> None:
        self._recipe, self._student = recipe, student
        self._taught, self._processes, self._work = taught, processes, work
        encoder = StudentEncoder(work / BEGUN, student.size, ())
        encoder.keep = _keep(student, encoder)
        self.encoder = encoder
        self._weights = dict(student.losses)
        about_teacher = any(name in TAUGHT for name in self._weights)
        width = taught.width if taught is not None and about_teacher else 0
        # The maps and the head that are dropped later begin alike in all processes.
        torch.manual_seed(recipe.seed)
        self._objective = StudentObjective(
            encoder, list(self._weights), processes, student.training.micro_batch, width
        ).to(processes.device)
        if sum(each.numel() for each in encoder.parameters()) > LARGE:
            forget(encoder.model.vision_model)
        if student.training.steps * student.training.batch >= WORTH_COMPILING:
            encoder.compile_vision()
        self._inherits = inherits(student)
        self._clock = Clock()
        self._order = list(
            order(
                len(images),
                recipe.views.count,
                student.training.batch,
                student.training.steps,
                recipe.seed,
                recipe.images.easy if isinstance(recipe.images, RoadWorldImages) else 0,
            )
        )
        own = [processes.share(places) for places in self._order]
        self._batches = Batches(images, self._views, student.size, encoder.grid, own, recipe.seed)
        self._images = images
        self._wordings = {
            label: [words.format(label=label) for words in teacher.templates]
            for teacher in ([recipe.teacher] if recipe.teacher is not None else [])
            for label in teacher.labels
        }

    def train(self) -> None:
        """Go through the steps."""
        training = self._student.training
        schedule: Schedule = training.schedule
        if not self._inherits:
            schedule = replace(schedule, frozen_share=0.0)
        self._schedule = schedule
        run = LoopRun(self._processes, self._clock, self._seen, self._prepare, training.micro_batch)
        try:
            with warnings.catch_warnings():
                # What torch.compile says of modules that are called in several ways.
                warnings.simplefilter("ignore", UserWarning)
                fit(
                    self._objective, self._losses, self._weights, schedule,
                    self._work / TRAINING, "student", run,
                )  # fmt: skip
        finally:
            self._batches.close()

    def _views(self, index: int) -> Sequence[View]:
        if self._taught is not None:
            return self._taught.views(index)
        return draw_views(self._recipe.seed, index, self._recipe.views)

    def _seen(self, step: int) -> list[str]:
        return [self._images.name(place.image) for place in self._order[step]]

    def _prepare(self, step: int) -> None:
        """Freeze the inherited vision tower, or let it learn."""
        if self._inherits:
            wanted = not self._schedule.frozen(step)
            self.encoder.model.vision_model.requires_grad_(wanted)

    def _losses(self, step: int) -> dict[str, Tensor]:
        """This process's part of each loss of a step."""
        with self._clock.part("data"):
            batch = self._batches[step]
            targets = self._targets(batch)
        rng = np.random.default_rng((self._recipe.seed, 8, step))
        torch.manual_seed(self._recipe.seed * 1_000_003 + step)
        with self._clock.part("forward"):
            parts = self._objective(batch, self._wordings, targets, rng)
            return {
                name: part.total / self._processes.total(part.weight)
                for name, part in parts.items()
            }

    def _targets(self, batch: Batch) -> TaughtTargets | None:
        taught, device = self._taught, self._processes.device
        if taught is None or not any(name in TAUGHT for name in self._weights):
            return None
        images, views = ([getattr(p, k) for p in batch.places] for k in ("image", "view"))
        said = taught.batch(images, views)
        patches = None
        if "patches" in self._weights and said.patches is not None:
            patches = resampled(torch.from_numpy(said.patches), self.encoder.grid).to(device)
        return TaughtTargets(
            torch.from_numpy(said.pooled).to(device),
            patches,
            torch.from_numpy(said.label_ids).to(device),
            torch.from_numpy(said.label_probabilities).to(device),
            torch.from_numpy(taught.label_texts).to(device),
            taught.scale,
        )


def _keep(student: Student, encoder: StudentEncoder) -> tuple[KeepStep, ...]:
    if not student.keep:
        return ()
    layers = len(encoder.model.vision_model.encoder.layers)
    columns, rows = encoder.grid
    return parse_schedule(student.keep, layers, columns * rows)
