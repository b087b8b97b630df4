# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The bundles of runs, as `vlm-perception export` makes them."""

from __future__ import annotations

from pathlib import Path

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import exported
from vlm_perception.evaluation.distillation.study import SeededRun

CALIBRATION_IMAGES = 600
"""Token pruning calibrates nothing, but its export asks for images."""
CALIBRATION_SIZE = (640, 360)


class Bundles:
    """Exports checkpoints into a folder, each once."""

    def __init__(self, folder: Path) -> None:
        """Export nothing yet.

        Args:
            folder: for the bundles; it exists.
        """
        self._folder = folder

    def of_run(self, run: SeededRun, part: str) -> ModelBundle:
        """The bundle of a part of a run, pruned as its student has learned to live with.

        Raises:
            ExportError: the checkpoint cannot be exported.
        """
        checkpoint = run.done(part)
        assert checkpoint is not None
        return self.of(checkpoint, f"{run.name}-{part}", run.keep)

    def of(self, checkpoint: Path, name: str, keep: str = "") -> ModelBundle:
        """The bundle of a checkpoint.

        Raises:
            ExportError: it cannot be exported.
        """
        options = ExportOptions(validate=False)
        if keep:
            calibration = self._folder / "calibration"
            write_images(calibration, CALIBRATION_IMAGES, CALIBRATION_SIZE)
            options = ExportOptions(keep=keep, calibration=calibration, validate=False)
        return exported(checkpoint, self._folder / "bundles" / name, options)
