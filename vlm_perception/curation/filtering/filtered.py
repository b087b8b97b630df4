# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""01_filtered: what is too small, too blurred, too dark or bright, and what copies are known by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.encoders import Encoder, open_encoder
from vlm_perception.curation.filtering.blurring import blur_regions
from vlm_perception.curation.filtering.image_figures import ImageFigures, image_figures
from vlm_perception.curation.filtering.kept_once import ROW, packed
from vlm_perception.curation.filtering.private_regions import require_detectors
from vlm_perception.curation.image_files import decode, read_file, stored_image
from vlm_perception.curation.journal import Journal
from vlm_perception.curation.recipe import CurationError, Filter, Recipe
from vlm_perception.curation.stage_folder import FILTERED, RAW
from vlm_perception.curation.step import kept_in
from vlm_perception.curation.tasks import Position, Record
from vlm_perception.curation.thresholds.copy_cosine import copy_cosine
from vlm_perception.media.image_errors import ImageError


def filter_tasks(folder: Path, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Pieces of what 00_raw has kept; see `step.Step`."""
    rules = recipe.filter
    require_detectors(rules.blur)
    known = {"folder": str(folder), "rules": rules.model_dump(mode="json")}
    if rules.embedding is not None:
        known["encoder"] = open_encoder(rules.embedding.encoder, folder).digest
        copy_cosine(folder, rules.embedding)
    for records in kept_in(folder, RAW):
        yield {**known, "records": records}


def do_filter(task: dict[str, Any], folder: Path, position: Position) -> Iterator[Any]:
    """Judge each image of a task by itself; see `tasks.Work`."""
    rules, begin = Filter.model_validate(task["rules"], strict=False), position or 0
    home, encoder = Path(task["folder"]), None
    if rules.embedding is not None:
        encoder = open_encoder(rules.embedding.encoder, home)
        if encoder.digest != task["encoder"]:
            raise CurationError(
                f"the encoder {rules.embedding.encoder.path} changed since the stage was begun; "
                f"put the old one back, or remove {folder} to begin the stage again"
            )
    judge = _ImageJudge(home, folder / "stage", rules, encoder)
    for place, record in enumerate(task["records"][begin:], begin + 1):
        yield judge.judged(record), place


@dataclass(frozen=True)
class _ImageJudge:
    """Judges an image by itself."""

    home: Path
    """The folder of the whole set."""
    stage: Path
    """Where files of the stage itself are written."""
    rules: Filter
    encoder: Encoder | None

    def judged(self, record: Record) -> Record:
        record = {**record, "status": "kept"}
        side = min(record["width"], record["height"])
        if side < self.rules.min_side:
            return _rejected(record, "min_side", side)
        try:
            pixels = decode(read_file(self.home / record["file"]))
            # Of the original: blurred, that of two copies in which a face is missed is the sharper.
            figures = image_figures(pixels)
            if self.rules.blur:
                record, pixels = self._blurred(record, pixels)
        except ImageError as error:
            return {**record, "status": "failed", "reason": str(error)}
        record = {
            **record,
            "phash": f"{figures.phash:016x}",
            "sharpness": round(figures.sharpness, 3),
            "brightness": round(figures.brightness, 3),
        }
        rule = _broken_rule(figures, self.rules)
        if rule:
            return _rejected(record, rule, record[rule.split("_")[1]])
        return {**record, ROW: self._row(record, pixels)} if self.encoder else record

    def _row(self, record: Record, pixels: NDArray[np.uint8]) -> str:
        """The embedding, from the journal where it has it: last digits may differ elsewhere."""
        assert self.encoder is not None
        journal, request = Journal(self.home), {"kind": ROW, "encoder": self.encoder.digest}
        known = journal.known(record["sha256"], request)
        if known is None:
            row = packed(self.encoder.images([pixels])[0])
            known = journal.add(record["sha256"], request, row)
        return str(known)

    def _blurred(
        self, record: Record, pixels: NDArray[np.uint8]
    ) -> tuple[Record, NDArray[np.uint8]]:
        """The record, and the image as all later stages see it."""
        image, counts = blur_regions(pixels, self.rules.blur)
        record = {**record, "blurred": counts}
        if image is None:
            return record, pixels
        stored = stored_image(self.stage, FILTERED, image)
        stored["changed"] = [*record["changed"], *stored["changed"]]
        return {**record, "unblurred": record["sha256"], **stored}, decode(image.file)


def _broken_rule(figures: ImageFigures, rules: Filter) -> str:
    if rules.min_sharpness is not None and figures.sharpness < rules.min_sharpness:
        return "min_sharpness"
    if rules.min_brightness is not None and figures.brightness < rules.min_brightness:
        return "min_brightness"
    if rules.max_brightness is not None and figures.brightness > rules.max_brightness:
        return "max_brightness"
    return ""


def _rejected(record: Record, rule: str, figure: float) -> Record:
    return {**record, "status": "rejected", "rule": rule, "figure": figure}
