# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What `evaluate compression` compares: the student dense, and all that can be taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.deploy.checkpoints.bundle_yaml import SPEC_NAME
from vlm_perception.deploy.compression.precision_config import CONFIG_NAME
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import exported

DENSE, INT8, PRUNED = "dense", "int8", "pruned"
RANDOM, LOW_RESOLUTION = "random-k", "low-resolution"
HEADS, INT4 = "heads", "int4-decoder"
CALIBRATION_IMAGES = 600
CALIBRATION_SIZE = (1280, 720)


@dataclass(frozen=True)
class Case:
    """A bundle to evaluate, and its setting."""

    case: str
    bundle: ModelBundle
    setting: str = ""
    """Schedule of the pruning, or share of the heads."""

    @property
    def name(self) -> str:
        """Case and setting."""
        return f"{self.case} {self.setting}".strip()


def make_cases(
    checkpoint: Path, keeps: Sequence[str], heads: Sequence[float], out: Path
) -> list[Case]:
    """Export every case; the first is dense, the second INT8 and dense.

    Args:
        checkpoint: the road world's checkpoint directory.
        keeps: schedules of token pruning; each gets its two controls.
        heads: shares of the attention heads that stay.
        out: folder for the bundles; those that are there already are used again.

    Raises:
        ExportError: the checkpoint or a schedule cannot be used.
    """
    # Before there are images: a checkpoint that cannot be used is refused at once.
    dense = exported(checkpoint, out / DENSE, ExportOptions())
    calibration = out / "calibration"
    write_images(calibration, CALIBRATION_IMAGES, CALIBRATION_SIZE)
    int8 = ExportOptions(precision="int8-mixed", calibration=calibration, validate=False)
    whole = exported(checkpoint, out / INT8, int8)
    cases = [Case(DENSE, dense), Case(INT8, whole)]
    for keep in keeps:
        options, place = replace(int8, keep=keep), out / _folder(keep)
        pruned = exported(checkpoint, place / PRUNED, options)
        drawn = exported(checkpoint, place / RANDOM, replace(options, random_tokens=True))
        tokens = pruned.manifest.vision.tokens
        smaller = with_smaller_image(checkpoint, dense, tokens, place / "smaller")
        small = exported(smaller, place / LOW_RESOLUTION, int8)
        cases += [
            Case(PRUNED, pruned, keep),
            Case(RANDOM, drawn, keep),
            Case(LOW_RESOLUTION, small, keep),
        ]
    for share in heads:
        fewer = exported(checkpoint, out / f"heads-{share:g}", replace(int8, heads=share))
        cases.append(Case(HEADS, fewer, f"{share:g}"))
    config = _config_with_int4(whole, out / "int4.yaml")
    cases.append(
        Case(INT4, exported(checkpoint, out / INT4, replace(int8, precision_config=config)))
    )
    return cases


def _folder(keep: str) -> str:
    """A name for files: `0.7@2,3,4` holds a comma."""
    return keep.replace("@", "-at-").replace(",", "-")


def _config_with_int4(int8: ModelBundle, path: Path) -> Path:
    """The precision config of a bundle with weights of four bits in the decoder."""
    config = yaml.safe_load(int8.file(CONFIG_NAME).read_text(encoding="utf-8"))
    config["decoder"] = "int4-weights"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def with_smaller_image(checkpoint: Path, dense: ModelBundle, tokens: int, directory: Path) -> Path:
    """The same checkpoint with the largest grid of the image's shape that has so few patches."""
    image = dense.manifest.image
    columns = next(
        c
        for c in range(image.columns, 0, -1)
        if c * _rows_for(c, image.columns, image.rows) <= tokens
    )
    rows = _rows_for(columns, image.columns, image.rows)
    directory.mkdir(parents=True, exist_ok=True)
    for entry in checkpoint.iterdir():
        link = directory / entry.name
        if link.is_symlink():
            link.unlink()
        if entry.name != SPEC_NAME:
            link.symlink_to(entry.resolve())
    spec = yaml.safe_load((checkpoint / SPEC_NAME).read_text(encoding="utf-8"))
    spec["geometry"] = {"width": columns * image.patch, "height": rows * image.patch}
    (directory / SPEC_NAME).write_text(yaml.safe_dump(spec), encoding="utf-8")
    return directory


def _rows_for(columns: int, all_columns: int, all_rows: int) -> int:
    return max(1, round(columns * all_rows / all_columns))
