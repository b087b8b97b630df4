# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception bench replay`: how fast recordings are replayed here, and in how much memory."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import yaml
from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.duration_histogram import Durations
from vlm_perception.datasets.roadworld.files.bag import write_bag
from vlm_perception.evaluation.machine_load import LoadMeter
from vlm_perception.evaluation.report import Report
from vlm_perception.outputs.file import require_free, result_file
from vlm_perception.replay.pipeline import EngineOptions, Pipeline
from vlm_perception.replay.prefetch import ahead
from vlm_perception.replay.recordings.source import CameraFrame, Source, Span, open_source
from vlm_perception.replay.recordings.writer import OutputBag
from vlm_perception.replay.results import Results
from vlm_perception.replay.settings import default_parameters, load_settings
from vlm_perception.replay.virtual_time import LatencyModel

VERB = "bench replay"
LIVE_HZ = 30.0
READINGS = 12
"""So often the memory is read, at equal distances."""
WARM_UP_FRAMES = 30
MARKS_MIN = (1, 2, 5, 10, 20, 30, 60)
"""Minutes of the recording at which the largest memory so far is read."""
LAST_FRAME_MIN = 1 / 60
SEED = 6_000_020


def run(recording: Path | None, threads: int, latency: Path | None) -> Report:
    """Replay a recording into a temporary folder and report what it took.

    Args:
        recording: what to replay; None: 20 seconds of the road world at 1280x720.
        threads: of the networks.
        latency: file for a latency model of this machine.

    Raises:
        VlmPerceptionError: the recording or the bundle cannot be used.
    """
    cv2.setNumThreads(1)
    if latency is not None:
        require_free(latency, VERB)
    with TemporaryDirectory(prefix="vlm_perception_") as folder:
        chosen = recording or Path(folder) / "drive"
        if recording is None:
            write_bag(chosen, size=(1280, 720), fps=30, seconds=20.0, seed=SEED)
        meter = LoadMeter()
        figures = _replay(chosen, threads, Path(folder))
        load = meter.load()
    figures = {**figures, "valid": load.quiet, **load.as_json()}
    if latency is not None:
        text = yaml.safe_dump(figures["latency_ms"], sort_keys=False)
        with result_file(latency, VERB) as part:
            part.write_text(text, encoding="utf-8")
    return Report([_table(figures), load.verdict()], figures)


def _replay(recording: Path, threads: int, folder: Path) -> dict[str, Any]:
    source = open_source(recording)
    settings = load_settings(default_parameters())
    pipeline = Pipeline(
        ModelBundle.load(settings.bundle), settings, LatencyModel(), EngineOptions(threads=threads)
    )
    (folder / "log").touch()
    bag = OutputBag(folder / "bag", [], source.camera)
    results = Results(folder / "log", folder / "keyframes", bag, None)
    memory: list[tuple[int, int]] = []
    peaks: dict[int, int] = {}
    first_ns = last_ns = 0
    every = max(1, (source.expected or 600) // READINGS)
    began = time.monotonic()
    reading = Durations()
    with Progress(transient=True) as progress:
        bar = progress.add_task("replaying", total=source.expected)
        for frame in ahead(_timed(source, reading)):
            results.take(frame, pipeline)
            if frame.index >= WARM_UP_FRAMES and frame.index % every == 0:
                memory.append((frame.index, _memory_mb("VmRSS")))
            first_ns, last_ns = first_ns or frame.time_ns, frame.time_ns
            _read_peak(peaks, (last_ns - first_ns) / 60e9)
            progress.advance(bar)
    results.finish(pipeline, whole=True)
    results.close()
    # The last image of an hour comes a moment before the hour is over.
    _read_peak(peaks, (last_ns - first_ns) / 60e9 + LAST_FRAME_MIN)
    seconds, count = time.monotonic() - began, results.counts["frames"]
    wall = results.wall
    costs = pipeline.measured_ms()
    decoding = 1e3 * reading.percentile(50)
    perceive = 1e3 * wall["perceive"].percentile(50)
    vision = costs.get("vision", {}).get("run", 0.0)
    beside = round(max(0.0, decoding + perceive - vision), 2)
    return {
        "recording": source.name,
        "frames": count,
        "seconds": round(seconds, 2),
        "frames_per_s": round(count / seconds, 1),
        "times_live": round(count / seconds / LIVE_HZ, 2),
        "threads": threads,
        "read_p50_ms": round(decoding, 2),
        "perceive_p50_ms": round(perceive, 2),
        "perceive_p95_ms": round(1e3 * wall["perceive"].percentile(95), 2),
        "write_p50_ms": round(1e3 * wall["write"].percentile(50), 2),
        "memory_mb": memory,
        "peak_mb_by_minute": peaks,
        "latency_ms": {"frame": beside, "transport": 1.0, "graphs": costs},
    }


def _timed(source: Source, reading: Durations) -> Generator[CameraFrame, None, None]:
    """All frames, and what it takes to read each."""
    began = time.monotonic()
    for frame in source.frames(Span()):
        reading.add(time.monotonic() - began)
        yield frame
        began = time.monotonic()


def _read_peak(peaks: dict[int, int], minutes: float) -> None:
    """Note the largest memory so far when another mark has been passed."""
    for mark in MARKS_MIN:
        if mark not in peaks and minutes >= mark:
            peaks[mark] = _memory_mb("VmHWM")


def _memory_mb(key: str) -> int:
    """Resident memory now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) // 1024
    return 0


def _table(figures: dict[str, Any]) -> Table:
    memory = ", ".join(str(megabytes) for _, megabytes in figures["memory_mb"])
    table = Table(title=f"replay of {figures['recording']}", show_header=False)
    rows = {
        "frames": f"{figures['frames']} in {figures['seconds']:g} s, threads: {figures['threads']}",
        "speed": f"{figures['frames_per_s']:g} frames/s, {figures['times_live']:g} x live 30 Hz",
        "read and decode, p50": f"{figures['read_p50_ms']:g} ms, on a thread of its own",
        "perceive, p50": f"{figures['perceive_p50_ms']:g} ms",
        "perceive, p95": f"{figures['perceive_p95_ms']:g} ms",
        "write, p50": f"{figures['write_p50_ms']:g} ms",
        "memory": f"{memory} MB" if memory else "too short to say",
    }
    if peaks := figures["peak_mb_by_minute"]:
        at = ", ".join(f"{megabytes} MB at {mark} min" for mark, megabytes in peaks.items())
        rows["peak of memory"] = at
    for graph, cost in figures["latency_ms"]["graphs"].items():
        per_token = f" and {cost['token']:g} a token" if "token" in cost else ""
        rows[f"graph {graph}"] = f"{cost['run']:g} ms a run{per_token}"
    for name, text in rows.items():
        table.add_row(name, text)
    return table
