# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The part `quantization` of a run: a finished checkpoint is trained for a precision config."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.compression.precision_config import read_config
from vlm_perception.deploy.compression.trained_steps import read_trained
from vlm_perception.training.distillation.examples import Example, Truth, View, draw_views
from vlm_perception.training.distillation.images.open import open_images
from vlm_perception.training.distillation.parts import Run
from vlm_perception.training.distillation.quantization.parity import Parity, Precision, compare
from vlm_perception.training.distillation.quantization.tower import QuantizedTower
from vlm_perception.training.distillation.quantization.train import (
    Source,
    train,
    write_checkpoint,
)
from vlm_perception.training.distillation.recipe import (
    DistillationError,
    Quantization,
)
from vlm_perception.training.loop import Schedule

NAME = "quantization"
PARITY = "parity.json"
PARITY_IMAGES = 500

_log = logging.getLogger(__name__)


def make(run: Run, work: Path) -> None:
    """Train a checkpoint's tower, write its directory with the steps, and compare with the graph.

    Raises:
        DistillationError: the recipe's parts do not fit each other.
        ExportError: the checkpoint cannot be read, or the precision config does not fit it.
    """
    recipe = run.recipe.quantization
    assert recipe is not None
    config = read_config(run.place(recipe.plan))
    keep = _keep(run, recipe)
    source = Source.load(_checkpoint(run, recipe), keep)
    training = recipe.training
    pictures = Pictures(run, source, training.batch)
    least = max(training.batch, recipe.calibration_images)
    if len(pictures) < least:
        raise DistillationError(
            f"the recipe has {len(pictures)} images, and its quantization asks for {least} (batch "
            f"{training.batch}, calibration_images {recipe.calibration_images}); give it more"
        )
    first = [pictures.whole(index) for index in range(recipe.calibration_images)]
    plan = source.calibrated(config, first, work)
    schedule = Schedule(
        steps=training.steps,
        batch=training.batch,
        peak_rate=training.rate,
        final_rate=training.final_rate,
        warm_up_share=training.warm_up,
        weight_decay=training.weight_decay,
    )
    steps = train(source, plan, recipe.ranges, pictures.batch, schedule, work / "training")
    write_checkpoint(source, plan, steps, work)
    (work / "training" / "last.pt").unlink()
    found = {"dense": parity(work, "", pictures)}
    if keep:
        found["pruned"] = parity(work, keep, pictures)
    told = {name: asdict(each) for name, each in found.items()}
    (work / PARITY).write_text(json.dumps(told, indent=1) + "\n")
    for name, each in told.items():
        _log.info("torch and ONNX Runtime, %s: %s", name, json.dumps(each))


def parity(checkpoint: Path, keep: str, pictures: Pictures) -> Parity:
    """Compare a trained checkpoint in torch with its graph in ONNX Runtime.

    Args:
        checkpoint: with trained steps.
        keep: token pruning, as `export --keep` takes it; empty: none.
        pictures: of which the first PARITY_IMAGES are looked at.
    """
    source, trained = Source.load(checkpoint, keep), read_trained(checkpoint)
    assert trained is not None
    indices = range(min(PARITY_IMAGES, len(pictures)))
    with tempfile.TemporaryDirectory(dir=checkpoint) as folder:
        flat, plan = source.flat(trained.plan, Path(folder))
        steps = trained.of_points(plan.config, plan.points, flat)
        tower = QuantizedTower(source.tower, plan.points, steps, plan.config, learned=True)
        images = (pictures.whole(index) for index in indices)
        return compare(flat, tower, plan.points, images, _precision(source, pictures, indices))


def _precision(source: Source, pictures: Pictures, indices: range) -> Precision | None:
    """Macro average precision by the road world's truth; None of other images and labels."""
    known = [label for label in LABELS if label in source.labels.names]
    truth = [pictures.truth(index) for index in indices]
    rows = [each.labels for each in truth if each is not None]
    if not known or len(rows) < len(truth):
        return None
    present = np.stack(rows)[:, [LABELS.index(label) for label in known]]
    told = present.any(axis=0) & ~present.all(axis=0)
    texts = source.labels.embeddings[[source.labels.names.index(label) for label in known]].numpy()
    if not told.any():
        return None

    def precision(pooled: NDArray[np.float32]) -> float:
        scores = pooled @ texts.T
        return float(average_precision_score(present[:, told], scores[:, told], average="macro"))

    return precision


class Pictures:
    """The images of a run as its tower takes them."""

    def __init__(self, run: Run, source: Source, count: int) -> None:
        recipe = run.recipe
        self._images = open_images(recipe.images, run.home, recipe.languages, run.out)
        self._size, self._grid, self._count = source.size, source.grid, count
        self._seed, self._views = recipe.seed, recipe.views

    def __len__(self) -> int:
        return len(self._images)

    def whole(self, index: int) -> NDArray[np.uint8]:
        """An image as it is."""
        return self._look(index, View()).image

    def truth(self, index: int) -> Truth | None:
        """What an image shows, where that is known."""
        return self._look(index, View()).truth

    def batch(self, step: int) -> NDArray[np.uint8]:
        """Random images of a step, one view of each."""
        rng = np.random.default_rng((self._seed, 12, step))
        chosen = []
        for index in rng.integers(0, len(self), self._count).tolist():
            views = draw_views(self._seed, index, self._views)
            chosen.append(self._look(index, views[int(rng.integers(len(views)))]).image)
        return np.stack(chosen)

    def _look(self, index: int, view: View) -> Example:
        return self._images.example(index, view, self._size, self._grid)


def _checkpoint(run: Run, recipe: Quantization) -> Path:
    """The checkpoint directory that is trained."""
    if recipe.checkpoint is not None:
        return run.place(recipe.checkpoint)
    for part in ("language", "student"):
        wanted = getattr(run.recipe, part) is not None
        done = run.done(part)
        if done is not None:
            return done
        if wanted:
            raise DistillationError(
                f"`quantization` trains what the part {part} has made, and {run.out} has none yet; "
                "make that part first, or run the recipe without --only"
            )
    raise DistillationError(
        "`quantization` has nothing to train: give it a `checkpoint`, or the recipe a `student`"
    )


def _keep(run: Run, recipe: Quantization) -> str:
    if recipe.keep is not None:
        return recipe.keep
    return "" if run.recipe.student is None else run.recipe.student.keep
