# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What quantization and token pruning cost the road world's student, and what they save.

Every case is exported from the checkpoint and sits the same exam, scene by scene beside the others.
Pruning is held against two controls at about the same number of tokens, as a method must be that
claims to choose well: tokens drawn at random, and simply a smaller image (UniPruneBench,
https://arxiv.org/abs/2511.02650, and FastVLM, https://arxiv.org/abs/2412.13303, table 5).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle import VISION_GRAPH, ModelBundle
from vlm_perception.datasets.roadworld.images import write_images
from vlm_perception.deploy.export import export_bundle
from vlm_perception.deploy.options import ExportOptions
from vlm_perception.deploy.spec import SPEC_NAME
from vlm_perception.evaluation.roadworld_nano import Candidate, exam_scenes, marks

DENSE, INT8, PRUNED = "dense", "int8", "pruned"
RANDOM, LOW_RESOLUTION = "random-k", "low-resolution"
CALIBRATION_IMAGES = 600
CALIBRATION_SIZE = (1280, 720)
TIMED_RUNS = 200


@dataclass(frozen=True)
class DriftRow:
    """One case beside its reference: dense for int8, int8 for all others."""

    case: str
    reference: str
    tokens: int
    cosine_mean: float
    """Of the pooled embedding, against the dense model in FP32."""
    cosine_min: float
    tag_top1_agreement: float
    macro_ap: float
    macro_ap_loss: float
    """In points (hundredths), against the reference."""
    vision_ms: float
    latency_cut_percent: float
    """Of the vision network's median, against the reference."""
    prefill_ms: float
    prefill_cut_percent: float
    caption_object_f1: float
    attributes_mean: float
    decoder_retention: float
    """The smaller of the shares that captions and answers keep of the reference's figures."""


def evaluate_drift(
    checkpoint: Path, keep: str, out: Path, scenes: int, json_file: Path | None = None
) -> list[DriftRow]:
    """Export every case, hold the exam, print a table and return its rows.

    Args:
        checkpoint: the road world's checkpoint directory.
        keep: the pruning schedule, as `vlm-perception export --keep` takes it.
        out: folder for the exported bundles and the calibration images.
        scenes: scenes of the exam.
        json_file: takes the rows, too.

    Raises:
        ExportError: the checkpoint or the schedule cannot be used.
    """
    calibration = out / "calibration"
    write_images(calibration, CALIBRATION_IMAGES, CALIBRATION_SIZE)
    bundles = _export(checkpoint, keep, out, calibration)
    candidates = {case: Candidate(bundle) for case, bundle in bundles.items()}
    pooled: dict[str, list[NDArray[np.float32]]] = {case: [] for case in candidates}
    for image, truth in exam_scenes(scenes):
        for case, candidate in candidates.items():
            pooled[case].append(candidate.answer(image, truth))
    rows = _rows(bundles, candidates, {case: np.stack(p) for case, p in pooled.items()})
    Console().print(_table(rows, scenes))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        content = {"scenes": scenes, "keep": keep, "rows": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return rows


def _export(checkpoint: Path, keep: str, out: Path, calibration: Path) -> dict[str, ModelBundle]:
    int8 = ExportOptions(precision="int8-mixed", calibration=calibration, accept_drift=True)
    pruned = replace(int8, keep=keep)
    bundles = {
        DENSE: export_bundle(checkpoint, out / DENSE),
        INT8: export_bundle(checkpoint, out / INT8, int8),
        PRUNED: export_bundle(checkpoint, out / PRUNED, pruned),
        RANDOM: export_bundle(checkpoint, out / RANDOM, replace(pruned, random_tokens=True)),
    }
    tokens = bundles[PRUNED].manifest.vision.tokens
    smaller = _with_smaller_image(checkpoint, bundles[DENSE], tokens, out / "smaller")
    bundles[LOW_RESOLUTION] = export_bundle(smaller, out / LOW_RESOLUTION, int8)
    return bundles


def _with_smaller_image(checkpoint: Path, dense: ModelBundle, tokens: int, directory: Path) -> Path:
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
        link.unlink(missing_ok=True)
        if entry.name != SPEC_NAME:
            link.symlink_to(entry.resolve())
    spec = yaml.safe_load((checkpoint / SPEC_NAME).read_text(encoding="utf-8"))
    spec["geometry"] = {"width": columns * image.patch, "height": rows * image.patch}
    (directory / SPEC_NAME).write_text(yaml.safe_dump(spec), encoding="utf-8")
    return directory


def _rows_for(columns: int, all_columns: int, all_rows: int) -> int:
    return max(1, round(columns * all_rows / all_columns))


def _rows(
    bundles: Mapping[str, ModelBundle],
    candidates: Mapping[str, Candidate],
    pooled: Mapping[str, NDArray[np.float32]],
) -> list[DriftRow]:
    vision, prefill = _vision_ms(bundles), _prefill_ms(bundles, candidates)
    figures = {case: marks(candidate.answers)[0] for case, candidate in candidates.items()}
    top = {case: np.argmax(candidates[case].answers.scores, axis=1) for case in candidates}

    def figure(case: str, key: str) -> float:
        value = figures[case][key]
        assert isinstance(value, float)
        return value

    rows = []
    for case, bundle in bundles.items():
        reference = DENSE if case in (DENSE, INT8) else INT8
        cosines = (pooled[case] * pooled[DENSE]).sum(axis=1)
        keys = ("caption_object_f1", "attributes_balanced_accuracy_mean")
        kept = [figure(case, key) / figure(reference, key) for key in keys]
        loss = figure(reference, "tags_macro_ap") - figure(case, "tags_macro_ap")
        rows.append(
            DriftRow(
                case=case,
                reference=reference,
                tokens=bundle.manifest.vision.tokens,
                cosine_mean=float(cosines.mean()),
                cosine_min=float(cosines.min()),
                tag_top1_agreement=float((top[case] == top[DENSE]).mean()),
                macro_ap=figure(case, "tags_macro_ap"),
                macro_ap_loss=100 * loss,
                vision_ms=vision[case],
                latency_cut_percent=100 * (1 - vision[case] / vision[reference]),
                prefill_ms=prefill[case],
                prefill_cut_percent=100 * (1 - prefill[case] / prefill[reference]),
                caption_object_f1=figure(case, keys[0]),
                attributes_mean=figure(case, keys[1]),
                decoder_retention=min(kept),
            )
        )
    return rows


def _vision_ms(bundles: Mapping[str, ModelBundle]) -> dict[str, float]:
    """Median time of each vision network on one thread, taken in turn."""
    runs: dict[str, Callable[[], object]] = {}
    for case, bundle in bundles.items():
        image = bundle.manifest.image
        grey = np.full((1, image.height, image.width, 3), 127, np.uint8)
        runs[case] = partial(bundle.engine(VISION_GRAPH).run, {"image": grey})
    return _medians(runs)


def _prefill_ms(
    bundles: Mapping[str, ModelBundle], candidates: Mapping[str, Candidate]
) -> dict[str, float]:
    """Median time to read each image's tokens into the decoder, taken in turn."""
    runs: dict[str, Callable[[], object]] = {}
    for case, bundle in bundles.items():
        spec = bundle.manifest.vision
        tokens = np.zeros((spec.tokens, spec.token_width), np.float16)
        runs[case] = partial(candidates[case].language.prefill, tokens)
    return _medians(runs)


def _medians(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {case: [] for case in runs}
    for _ in range(TIMED_RUNS):
        for case, run in runs.items():
            began = time.perf_counter()
            run()
            times[case].append(time.perf_counter() - began)
    return {case: 1e3 * median(values) for case, values in times.items()}


def _table(rows: list[DriftRow], scenes: int) -> Table:
    table = Table(
        title=f"Drift on {scenes} unseen scenes",
        caption="cosine and top tag: against dense; the rest against dense for int8, against int8 "
        "for all below it",
    )
    for heading in (
        "case", "tokens", "cosine mean", "worst", "top tag", "macro AP", "loss, points",
        "vision ms", "cut", "prefill ms", "cut", "captions", "answers", "kept by the decoder",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        table.add_row(
            row.case,
            str(row.tokens),
            f"{row.cosine_mean:.4f}",
            f"{row.cosine_min:.4f}",
            f"{row.tag_top1_agreement:.3f}",
            f"{row.macro_ap:.4f}",
            f"{row.macro_ap_loss:+.2f}",
            f"{row.vision_ms:.2f}",
            f"{row.latency_cut_percent:.0f} %",
            f"{row.prefill_ms:.2f}",
            f"{row.prefill_cut_percent:.0f} %",
            f"{row.caption_object_f1:.3f}",
            f"{row.attributes_mean:.3f}",
            f"{row.decoder_retention:.3f}",
        )
    return table
