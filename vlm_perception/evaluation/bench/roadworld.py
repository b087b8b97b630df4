# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the road world is drawn by one core."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import cv2

from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_drive, sample_scene
from vlm_perception.datasets.roadworld.truth import describe
from vlm_perception.evaluation.report import Report, figure_table

FIRST_SEED = 5_000_000
DRIVE_S = 20.0
FPS = 30


@dataclass(frozen=True)
class Speed:
    """Frames a second of processor time, which other programs do not change much."""

    width: int
    height: int
    scenes_per_s_per_core: float
    """Each another world: made up, drawn and described."""
    drive_frames_per_s_per_core: float
    """Frames of one drive, drawn."""


def measure(width: int, height: int, seconds: float) -> Speed:
    """Draw scenes and then a drive, each for this many seconds of one core."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        scenes, began = 0, time.process_time()
        while (spent := time.process_time() - began) < seconds:
            world = sample_scene(FIRST_SEED + scenes)
            describe(world, render(world, 0.0, width, height))
            scenes += 1
        drive = sample_drive(FIRST_SEED, DRIVE_S)
        frames, began = 0, time.process_time()
        while (driven := time.process_time() - began) < seconds:
            render(drive, frames / FPS % DRIVE_S, width, height)
            frames += 1
    finally:
        cv2.setNumThreads(threads)
    return Speed(width, height, scenes / spent, frames / driven)


def run(width: int, height: int, seconds: float) -> Report:
    """Measure both rates."""
    speed = measure(width, height, seconds)
    title = f"Road world at {width}x{height}, one core"
    table = figure_table(title, "what", "a second", "aim")
    table.add_row(
        "scenes, sampled, rendered and described", f"{speed.scenes_per_s_per_core:.0f}", ">= 100"
    )
    table.add_row("frames of a drive", f"{speed.drive_frames_per_s_per_core:.0f}", ">= 100")
    return Report([table], {"valid": None, **asdict(speed)})
