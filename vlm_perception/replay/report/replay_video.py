# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The overlay video of a replay: each frame of the recording with the scene of the log on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from vlm_perception.common.interrupt import Interrupt
from vlm_perception.perception.rendering.overlay import draw_scene
from vlm_perception.replay.recordings.source import Source, Span
from vlm_perception.replay.report.overlay_video import VideoWriter
from vlm_perception.replay.report.scene_log import Record, read_log, scene_of_record

SLOWEST_HZ, FASTEST_HZ = 1.0, 60.0
INTERVALS = 100
"""Frames from whose times the video's rate is taken."""


def draw_replay(
    source: Source, span: Span, log: Path, video: Path, console: Console, interrupt: Interrupt
) -> None:
    """Read the recording again and draw each frame; an interrupted video ends where it is.

    Raises:
        DiskFullError: there is no room for it.
    """
    records = read_log(log)
    labels = next(records)["labels"]
    scenes = _scenes(records)
    scene = next(scenes, None)
    writer: VideoWriter | None = None
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=console, transient=True))
        bar = progress.add_task("drawing overlay.mp4", total=source.expected)
        for frame in source.frames(span):
            progress.advance(bar)
            if interrupt or scene is None:
                return
            if frame.index != scene["frame"] or frame.pixels is None:
                continue
            drawn = draw_scene(frame.pixels, scene_of_record(scene, labels))
            height, width = drawn.shape[:2]
            writer = writer or stack.enter_context(VideoWriter(video, width, height, _rate(log)))
            bgr = np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), dtype=np.uint8)
            writer.add(frame.time_ns, bgr)
            scene = next(scenes, None)


def _scenes(records: Iterator[Record]) -> Iterator[Record]:
    return (record for record in records if "frame" in record and "tags" in record)


def _rate(log: Path) -> float:
    """The recording's usual rate."""
    times: list[int] = []
    for record in _scenes(read_log(log)):
        times.append(record["time"])
        if len(times) > INTERVALS:
            break
    steps = np.diff(np.array(times, np.int64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return min(FASTEST_HZ, max(SLOWEST_HZ, 1e9 / usual)) if usual > 0 else SLOWEST_HZ
