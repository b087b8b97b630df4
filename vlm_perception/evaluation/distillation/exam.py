# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Many bundles on the same scenes of the road world; what each said is kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.progress import Progress

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import CAMERA_SIZE, Street, Streets
from vlm_perception.evaluation.journal import Journal
from vlm_perception.evaluation.road_world import EXAM_SEED

BLOCK = 50
"""Scenes whose results are kept together."""

Examined = Callable[[Street], Any]
"""Says something of a scene, as JSON has it."""


def examine(
    what: str,
    bundles: Mapping[str, ModelBundle],
    open_bundle: Callable[[ModelBundle], Examined],
    truth: Examined,
    scenes: int,
    folder: Path,
) -> tuple[dict[str, list[Any]], list[Any]]:
    """What each bundle says of each scene, and what is true.

    A scene is rendered once for all bundles that have not seen it in an earlier run.

    Args:
        what: is asked, for the names of files.
        bundles: by name.
        open_bundle: loads a bundle's networks; only of those that have something left to see.
        truth: what is true of a scene.
        scenes: how many.
        folder: keeps what was said; it exists.
    """
    with ExitStack() as stack, Progress(transient=True) as progress:
        true = stack.enter_context(Journal.named(folder, f"scenes-{what}", {}))
        said = {
            name: stack.enter_context(
                Journal.named(folder, f"{name}-{what}", {"bundle": bundle.digest})
            )
            for name, bundle in bundles.items()
        }
        opened: dict[str, Examined] = {}
        bar = progress.add_task(f"Evaluating {what}", total=scenes)
        blocks = {}
        for first in range(EXAM_SEED, EXAM_SEED + scenes, BLOCK):
            seeds = range(first, min(first + BLOCK, EXAM_SEED + scenes))
            key = blocks[first] = f"{seeds.start}-{seeds.stop}"
            lacking = [name for name, journal in said.items() if key not in journal.items]
            if lacking or key not in true.items:
                for name in lacking:
                    if name not in opened:
                        opened[name] = open_bundle(bundles[name])
                asked = {name: opened[name] for name in lacking}
                found = _look(seeds, {**asked, "": truth})
                true.add(key, found[""])
                for name in lacking:
                    said[name].add(key, found[name])
            progress.advance(bar, len(seeds))
        keys = list(blocks.values())
        return (
            {name: _joined(journal, keys) for name, journal in said.items()},
            _joined(true, keys),
        )


def _look(seeds: range, asked: Mapping[str, Examined]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in asked}
    for street in Streets(seeds, CAMERA_SIZE):
        for name, examined in asked.items():
            found[name].append(examined(street))
    return found


def _joined(journal: Journal, keys: list[str]) -> list[Any]:
    return [item for key in keys for item in journal.items[key]]
