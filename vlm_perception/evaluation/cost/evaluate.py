# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an image costs with a bundle on this machine: tokens, time, memory, energy."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.machine import cpu_count, cpu_model, return_memory
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.evaluation.cost.alone import WARM_UP, Alone
from vlm_perception.evaluation.cost.figures import TIMES, figures
from vlm_perception.evaluation.cost.gpu_memory import GpuMemory
from vlm_perception.evaluation.machine_load import LoadMeter
from vlm_perception.evaluation.measured_process import output_of
from vlm_perception.evaluation.report import Report, figure_table

FIRST_SEED = 6_500_000
WORDS = {
    "encoder_ms": "encoder, preprocessing included",
    "tower_ms": "the language model's own vision tower",
    "prefill_ms": "prefill of the image",
    "decode_ms": "caption",
    "total_ms": "total, from the image to the end of its caption",
    "questions_ms": "all typed questions, beside that",
}


def run(bundle_name: str, *, scenes: int, threads: int) -> Report:
    """Measure a bundle in a process of its own, on scenes of the road world.

    Args:
        bundle_name: name or directory of the model.
        scenes: how many, at most; fewer where they take long.
        threads: of the engines.

    Raises:
        BundleError: the bundle cannot be used.
        EngineError: no engine takes a graph.
        RunError: the measured process failed.
    """
    bundle, console = ModelBundle.load(bundle_name), Console()
    with tempfile.TemporaryDirectory() as folder:
        with console.status("rendering scenes of the road world"):
            rendered = _render(Path(folder), scenes)
        with console.status("choosing engines"):
            # Once, not in the process that is measured: all engines would count in its memory.
            Alone(bundle, threads)
            return_memory()
        meter = LoadMeter()
        with console.status("analysing them"), GpuMemory() as gpu:
            found = _measure_apart(bundle, Path(folder), threads)
        load = meter.load()
    records = [
        {"image": name, **each} for name, each in zip(rendered, found["records"], strict=False)
    ]
    cost = {
        **_tokens(bundle),
        **figures(records),
        "peak_rss_mb": found["peak_rss_mb"],
        "peak_gpu_mb": gpu.peak_mb,
        "kv_bytes_in_all": found["kv_bytes_in_all"],
        "energy_j_per_image": found["energy_j_per_image"],
        "energy_source": found["energy_source"],
        "records": records,
    }
    title = (
        f"What an image costs with {bundle.manifest.name}: {found['engines']}, {threads} thread(s)"
    )
    return Report(
        [_table(title, cost)],
        {
            "cost": cost,
            "cpu_model": cpu_model(),
            "cpu_count": cpu_count(),
            "engines": found["engines"],
            "threads": threads,
            "bundle_digest": bundle.digest,
            "sets": [_described(rendered, len(records))],
        },
        load,
    )


def _render(folder: Path, scenes: int) -> dict[str, str]:
    """Store scenes as arrays that can be read one at a time.

    Returns:
        The names of those that are timed, each with a digest of its pixels.
    """
    found = {}
    for at, street in enumerate(Streets(range(FIRST_SEED, FIRST_SEED + WARM_UP + scenes))):
        np.save(folder / f"{at:06d}.npy", street.image)
        if at >= WARM_UP:
            found[street.provenance] = hashlib.sha256(street.image.tobytes()).hexdigest()
    return found


def _described(rendered: Mapping[str, str], timed: int) -> dict[str, str]:
    """Name, version and split of the first so many scenes."""
    first, digests = FIRST_SEED + WARM_UP, list(rendered.values())[:timed]
    return {
        "name": "road world",
        "version": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "split": f"seeds {first} to {first + timed - 1}",
    }


def _measure_apart(bundle: ModelBundle, folder: Path, threads: int) -> dict[str, Any]:
    printed = output_of(Alone.__module__, str(bundle.path), str(threads), str(folder))
    found: dict[str, Any] = json.loads(printed)
    return found


def _tokens(bundle: ModelBundle) -> dict[str, int | None]:
    """What the manifest says of an image; without a language model the encoder's tokens count."""
    vision, language = bundle.manifest.vision, bundle.manifest.language
    return {
        "tokens_per_image": vision.tokens if language is None else language.image_tokens,
        "kv_bytes_per_image": None if language is None else language.kv_bytes_per_image,
    }


def _table(title: str, cost: Mapping[str, Any]) -> Table:
    table = figure_table(
        title,
        *("what", "p50", "p95"),
        caption=f"{cpu_model()}, {cpu_count()} cores. {len(cost['records'])} road-world scenes",
    )
    for name in TIMES:
        if cost[name] > 0:
            p50, p95 = (f"{cost[key]:.1f} ms" for key in (name, f"{name}_p95"))
            table.add_row(WORDS[name], p50, p95)
    table.add_section()
    table.add_row("tokens of an image", str(cost["tokens_per_image"]), "")
    for what, key in (
        ("keys and values of an image", "kv_bytes_per_image"),
        ("the same with prompt and longest caption", "kv_bytes_in_all"),
    ):
        if cost[key] is not None:
            table.add_row(what, f"{cost[key] / 1e6:.2f} MB", "")
    table.add_row("peak memory of the process", f"{cost['peak_rss_mb']:.0f} MB", "")
    gpu = cost["peak_gpu_mb"]
    table.add_row("peak memory of the GPU", "no GPU" if gpu is None else f"{gpu:.0f} MB", "")
    joules, source = cost["energy_j_per_image"], cost["energy_source"]
    energy = "not measured" if joules is None else f"{joules:.3f} J"
    table.add_row(f"energy of an image{f', {source}' if source else ''}", energy, "")
    return table
