# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the vision network of a bundle against transformers and a dense FP32 graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from transformers import AutoModel

from vlm_perception.bundle.bundle import VISION_GRAPH
from vlm_perception.bundle.manifest import ImageSpec
from vlm_perception.common.machine import cpu_count, cpu_model
from vlm_perception.deploy.checkpoints.quiet import quieten
from vlm_perception.engines.onnxruntime import ONNXRUNTIME
from vlm_perception.evaluation.bench.encoder_cases import Aim, Contestants, select, workshop
from vlm_perception.evaluation.bench.encoder_memory import peak_rss_mb
from vlm_perception.evaluation.machine_load import LoadMeter
from vlm_perception.evaluation.report import Report

ROUNDS = 12
RUNS = 5
"""Runs of one contestant before it is the next one's turn; one more goes before them untimed."""

FP32, BF16 = "transformers_fp32", "transformers_bf16"
ORT_FP32 = "ort_fp32"
BUNDLE = "bundle"

Run = Callable[[], object]
Times = Mapping[str, Sequence[Sequence[float]]]
"""Milliseconds of each contestant by round and run."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another; median, least and largest of the rounds."""

    value: float
    least: float
    largest: float


@dataclass(frozen=True)
class Row:
    """What was measured in one case."""

    case: str
    engine: str
    bundle_digest: str
    median_ms: Mapping[str, float]
    vs_ort_fp32: Ratio
    vs_transformers_best: Ratio
    transformers_best: str
    dense_rss_mb: float
    """Peak of a process that encodes images with the dense graph, in ONNX Runtime."""
    bundle_rss_mb: float
    """With the bundle, in the engine that was timed."""
    bundle_ort_rss_mb: float
    """With the bundle in ONNX Runtime: an engine's own library takes memory, too."""
    aim: Aim | None

    @property
    def fps(self) -> float:
        """Images a second, one after the other."""
        return 1e3 / self.median_ms[BUNDLE]


def run(cases: list[str], *, threads: int) -> Report:
    """Measure the cases.

    Args:
        cases: their names; all that can be measured when empty.
        threads: of each contestant.

    Raises:
        CaseError: there is no such case, or its checkpoint is missing.
        ExportError: a bundle could not be made.
    """
    selected = select(cases)
    place, console = workshop(), Console()
    prepared = []
    for case in selected:
        console.print(f"{case.name}: building what is not in the cache yet")
        prepared.append((case, place.prepare(case)))
    meter = LoadMeter()
    rows = []
    for case, contestants in prepared:
        with console.status(f"measuring {case.name}"):
            rows.append(measure_case(case.name, contestants, threads=threads, aim=case.aim))
    return Report([as_table(rows, threads)], as_json(rows, threads), meter.load())


def measure_case(
    name: str, contestants: Contestants, *, threads: int, aim: Aim | None = None
) -> Row:
    """Let the four contestants of a case take turns, and weigh two processes."""
    bundle, dense = contestants.bundle, contestants.dense
    engine = bundle.choose_engine(VISION_GRAPH, threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        times = take_turns(prepare_runs(contestants, engine, threads))
    finally:
        torch.set_num_threads(before)
    best = min((FP32, BF16), key=lambda each: _median(times[each]))
    return Row(
        case=name,
        engine=bundle.engine(VISION_GRAPH, engine=engine).name,
        bundle_digest=bundle.digest,
        median_ms={each: _median(times[each]) for each in times},
        vs_ort_fp32=ratio(times, ORT_FP32),
        vs_transformers_best=ratio(times, best),
        transformers_best=best,
        dense_rss_mb=peak_rss_mb(dense, engine=ONNXRUNTIME, threads=threads),
        bundle_rss_mb=peak_rss_mb(bundle, engine=engine, threads=threads),
        bundle_ort_rss_mb=peak_rss_mb(bundle, engine=ONNXRUNTIME, threads=threads),
        aim=aim,
    )


def prepare_runs(contestants: Contestants, engine: str, threads: int) -> dict[str, Run]:
    """One run of each contestant: the network alone, on an image that is ready for it."""
    dense, bundle = contestants.dense, contestants.bundle
    runs: dict[str, Run] = {}
    quieten()
    image = _image(dense.manifest.image)
    for name, dtype in ((FP32, torch.float32), (BF16, torch.bfloat16)):
        model = AutoModel.from_pretrained(contestants.checkpoint, dtype=dtype).eval()
        runs[name] = partial(_embed, model, _pixels(image, dense.manifest.image).to(dtype))
    for name, each, kind in ((ORT_FP32, dense, ONNXRUNTIME), (BUNDLE, bundle, engine)):
        loaded = each.engine(VISION_GRAPH, threads=threads, engine=kind)
        runs[name] = partial(loaded.run, {"image": _image(each.manifest.image)})
    return runs


@torch.inference_mode()
def _embed(model: Any, pixels: torch.Tensor) -> object:
    return model.get_image_features(pixel_values=pixels)


def _image(spec: ImageSpec) -> NDArray[np.uint8]:
    shape = (1, spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _pixels(image: NDArray[np.uint8], spec: ImageSpec) -> torch.Tensor:
    """The image as transformers takes it: [1, 3, height, width], normalised."""
    scaled = torch.from_numpy(image).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (spec.mean, spec.std))
    return (scaled - mean) / std


def take_turns(
    runs: Mapping[str, Run], clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[list[float]]]:
    """Time each contestant in each round; what disturbs a round disturbs all of them."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()
            row = []
            for _ in range(RUNS):
                started = clock()
                run()
                row.append(1e3 * (clock() - started))
            times[name].append(row)
    return times


def _median(rounds: Sequence[Sequence[float]]) -> float:
    return median(value for row in rounds for value in row)


def ratio(times: Times, other: str) -> Ratio:
    """How many times faster than another contestant the bundle was, round by round."""
    pairs = zip(times[other], times[BUNDLE], strict=True)
    ratios = [median(theirs) / median(ours) for theirs, ours in pairs]
    return Ratio(median(ratios), min(ratios), max(ratios))


def as_json(rows: Sequence[Row], threads: int) -> dict[str, object]:
    """The figures under their fixed keys, and what they hold for."""
    return {
        "threads": threads,
        "cpu_model": cpu_model(),
        "cpu_count": cpu_count(),
        "rows": [_row_json(row, threads) for row in rows],
        "memory": [
            {
                "case": row.case,
                "dense_fp32_peak_rss_mb": round(row.dense_rss_mb, 1),
                "bundle_peak_rss_mb": round(row.bundle_rss_mb, 1),
                "bundle_ort_peak_rss_mb": round(row.bundle_ort_rss_mb, 1),
            }
            for row in rows
        ],
    }


def _row_json(row: Row, threads: int) -> dict[str, object]:
    ratios = {}
    for key, value in (
        ("ratio_vs_ort_fp32", row.vs_ort_fp32),
        ("ratio_vs_transformers_best", row.vs_transformers_best),
    ):
        ratios[key] = round(value.value, 3)
        ratios[f"{key}_min"] = round(value.least, 3)
        ratios[f"{key}_max"] = round(value.largest, 3)
    return {
        "case": row.case,
        "engine": row.engine,
        "threads": threads,
        **ratios,
        "p50_ms": round(row.median_ms[BUNDLE], 3),
        "fps": round(row.fps, 2),
        "transformers_best": row.transformers_best,
        **{f"{name}_p50_ms": round(row.median_ms[name], 3) for name in (FP32, BF16, ORT_FP32)},
        "bundle_digest": row.bundle_digest,
    }


def as_table(rows: Sequence[Row], threads: int) -> Table:
    """The figures for people."""
    table = Table(
        title=f"One image through the vision network, {threads} threads",
        caption=(
            f"{cpu_model()}, {cpu_count()} cores. The network alone, on a preprocessed image, "
            f"{ROUNDS} interleaved rounds. In brackets: minimum and maximum of the rounds"
        ),
        show_lines=True,
    )
    for heading in ("case", "the bundle", "ONNX Runtime FP32, dense", "transformers"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.case, *_cells(row))
    return table


def _cells(row: Row) -> tuple[str, str, str]:
    aim, ms = row.aim, row.median_ms
    rate_aim = f", target {aim.fps:g}" if aim and aim.fps else ""
    bundle = [
        f"{ms[BUNDLE]:.1f} ms",
        f"{row.fps:.1f} images/s{rate_aim}",
        row.engine,
        f"peak {row.bundle_rss_mb:.0f} MB, in ONNX Runtime {row.bundle_ort_rss_mb:.0f}",
    ]
    dense = [
        f"{ms[ORT_FP32]:.1f} ms",
        _shown(row.vs_ort_fp32, aim.vs_ort_fp32 if aim else None),
        f"peak {row.dense_rss_mb:.0f} MB",
    ]
    theirs = [
        f"FP32 {ms[FP32]:.1f} ms",
        f"BF16 {ms[BF16]:.1f} ms",
        _shown(row.vs_transformers_best, aim.vs_transformers if aim else None),
    ]
    return "\n".join(bundle), "\n".join(dense), "\n".join(theirs)


def _shown(found: Ratio, aim: float | None) -> str:
    wanted = f", target {aim:g}x" if aim else ""
    return f"{found.value:.2f}x ({found.least:.2f}-{found.largest:.2f}){wanted}"
