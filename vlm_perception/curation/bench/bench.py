# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How fast images are taken in and filtered, and how the search for near-duplicates grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from vlm_perception.curation.bench.search import (
    DIMENSIONS,
    EMBEDDINGS,
    HASHES,
    Search,
    growth,
    searches,
)
from vlm_perception.curation.bench.speed import SIZE, Scaling, Speed, alone, by_workers
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.evaluation.machine_load import Load, LoadMeter
from vlm_perception.evaluation.report import Report, figure_table

RATE_BAR = 100.0
"""Images a second of a core, at least."""
SEARCH_BAR, SEARCH_BAR_S = 100_000, 30.0
"""So many hashes are searched in so many seconds, at most."""
HASH_SIZES = (10_000, 30_000, SEARCH_BAR)
EMBEDDING_SIZES = (10_000, 20_000)
NO_RAY = "How two workers scale was not measured: Ray is not installed (`pip install 'ray[data]'`)."


def run(images: int) -> Report:
    """Measure all of it.

    Args:
        images: how many JPEG files are taken in and filtered.

    Raises:
        RunError: a process failed.
        OSError: there is no room for the files.
    """
    console = Console()
    with TemporaryDirectory(prefix="vlm_") as scratch:
        place = Path(scratch)
        write_images(place / "images", images, SIZE)
        meter = LoadMeter()
        with console.status("making a set"):
            speed = alone(place / "images", place / "alone")
        load = meter.load()
        scaling = None
        if find_spec("ray") is not None:
            # Ray's workers are not this process's own, so that they would count as others.
            with console.status("making it with two workers"):
                (place / "workers").mkdir()
                scaling = by_workers(place / "images", place / "workers")
    meter = LoadMeter()
    hashes = searches(HASHES, HASH_SIZES, console)
    embeddings = searches(EMBEDDINGS, EMBEDDING_SIZES, console)
    later = meter.load()
    return Report(
        [
            _speed_table(speed, scaling),
            *([] if scaling else [NO_RAY]),
            _search_table("Near-duplicates by pHash, within 8 bits of 64", hashes, _bar(hashes)),
            _search_table(
                f"Near-duplicates by embedding, cosine 0.95, {DIMENSIONS} dimensions", embeddings
            ),
        ],
        _figures(speed, scaling, hashes, embeddings),
        Load(max(load.before, later.before), max(load.during, later.during)),
    )


def _speed_table(speed: Speed, scaling: Scaling | None) -> Table:
    width, height = SIZE
    title = f"{speed.images} JPEG files of {width}x{height} to 00_raw and 01_filtered"
    table = figure_table(title, "what", "figure", "bar")
    for stage, rate in speed.by_stage.items():
        table.add_row(f"tasks of {stage}, images/s per core", f"{rate:.0f}")
    rate = speed.images_per_second_per_core
    table.add_row(
        "both stages, images/s per core", f"{rate:.0f}", _shown(rate >= RATE_BAR, ">= 100")
    )
    table.add_row("both stages, seconds in one process", f"{speed.seconds:.1f}")
    if scaling is not None:
        table.add_row("with two workers of Ray, seconds", f"{scaling.seconds['2']:.1f}")
        table.add_row("from one worker to two, times faster", f"{scaling.from_one_to_two:.2f}")
        table.add_row("start of Ray, seconds", f"{scaling.ray_start_seconds:.1f}")
    hours = speed.core_hours_of_a_million
    table.add_row("10^6 images, core hours (projection)", f"{hours:.2f}")
    table.add_row("10^6 images, disk in GB (projection)", f"{speed.gigabytes_of_a_million:.0f}")
    return table


def _search_table(title: str, found: Sequence[Search], bar: str = "") -> Table:
    grown = growth(found)
    sizes = f"from {found[-2].images} to {found[-1].images} images"
    caption = f"{bar}{sizes} seconds grow as n^{grown.exponent:.2f}"
    headings = ("images", "near-duplicates", "seconds", "peak MB", "search's MB")
    table = figure_table(title, *headings, caption=caption)
    for each in found:
        memory = (f"{each.peak_mb:.0f}", f"{each.beyond_mb:.0f}")
        table.add_row(str(each.images), str(each.near_duplicates), f"{each.seconds:.2f}", *memory)
    table.add_row("10^6, projected", "", f"{grown.projected_seconds:.0f}")
    return table


def _shown(reached: bool, bar: str) -> str:
    return f"{bar}: {'reached' if reached else 'missed'}"


def _at_bar(hashes: Sequence[Search]) -> float | None:
    """Seconds of the search that the bar is for."""
    return next((each.seconds for each in hashes if each.images == SEARCH_BAR), None)


def _bar(hashes: Sequence[Search]) -> str:
    seconds = _at_bar(hashes)
    if seconds is None:
        return ""
    return f"{SEARCH_BAR} in {_shown(seconds <= SEARCH_BAR_S, f'<= {SEARCH_BAR_S:g} s')}; "


def _figures(
    speed: Speed,
    scaling: Scaling | None,
    hashes: Sequence[Search],
    embeddings: Sequence[Search],
) -> dict[str, object]:
    seconds = _at_bar(hashes)
    return {
        "filtering": {
            **asdict(speed),
            "reached": speed.images_per_second_per_core >= RATE_BAR,
            "scaling": scaling and {**asdict(scaling), "from_one_to_two": scaling.from_one_to_two},
            "projected_million": {
                "core_hours": speed.core_hours_of_a_million,
                "gigabytes": speed.gigabytes_of_a_million,
            },
        },
        HASHES: {
            **_search_figures(hashes),
            "reached": None if seconds is None else seconds <= SEARCH_BAR_S,
        },
        EMBEDDINGS: {**_search_figures(embeddings), "dimensions": DIMENSIONS},
    }


def _search_figures(found: Sequence[Search]) -> dict[str, object]:
    return {"searches": [asdict(each) for each in found], "growth": asdict(growth(found))}
