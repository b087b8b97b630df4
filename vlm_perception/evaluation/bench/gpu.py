# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the networks take on a GPU, and what a busy language path costs the encoder there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.engines.tensorrt.backend import TENSORRT
from vlm_perception.evaluation.bench.gpu_work import Call, Work, open_work
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.rosgraph.topic_meter import percentiles

RATE_HZ = 30.0
"""Of the frames that the encoder is given while the language path is idle or busy."""
TURNS = 3
"""How often idle and busy take turns."""
WARM_UP = 5
TOKENS = 20
"""Steps of decoding for each prefill of the busy language path."""


@dataclass(frozen=True)
class Figures:
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Figures:
        """Of times in milliseconds, at least one."""
        found = percentiles(times) or {}
        return cls(found["p50"], found["p99"])


@dataclass(frozen=True)
class Beside:
    """The encoder beside the language path."""

    priority: bool
    idle: Figures
    busy: Figures
    language_hz: float
    """Rounds of the language path a second while busy: a prefill, questions and a caption."""

    @property
    def ratio(self) -> float:
        """p99 busy against idle; 1: no difference."""
        return self.busy.p99 / self.idle.p99


@dataclass(frozen=True)
class GpuFigures:
    """One engine on one device."""

    engine: str
    alone: Mapping[str, Figures]
    """By the name of the work; each for itself, without a pause."""
    beside: tuple[Beside, ...]
    """Without and with stream priority."""


def measure(open_one: Callable[[bool], Work], seconds: float, progress: Progress) -> GpuFigures:
    """Measure all of it.

    Args:
        open_one: loads the work, without or with stream priority.
        seconds: length of each phase: four of the works alone, and four of the encoder.
        progress: where it is shown.
    """
    task = progress.add_task("loading", total=8)
    alone: dict[str, Figures] = {}
    beside = []
    for priority in (False, True):
        work = open_one(priority)
        if not alone:
            for name, call in {"encoder": work.encode, **work.language}.items():
                progress.update(task, description=f"{name} alone")
                alone[name] = Figures.of(list(_times(call, seconds)))
                progress.advance(task)
        progress.update(task, description=f"encoder, {'with' if priority else 'no'} priority")
        beside.append(_beside(work, seconds, priority=priority))
        progress.advance(task, 2)
    return GpuFigures(work.engine, alone, tuple(beside))


def _beside(work: Work, seconds: float, *, priority: bool) -> Beside:
    idle: list[float] = []
    busy: list[float] = []
    rounds, spent = 0, 0.0
    for _ in range(TURNS):
        idle += _times(work.encode, seconds / TURNS, RATE_HZ)
        with _saturated(work) as done:
            started, before = time.perf_counter(), len(done)
            busy += _times(work.encode, seconds / TURNS, RATE_HZ)
            spent += time.perf_counter() - started
            rounds += len(done) - before
    return Beside(priority, Figures.of(idle), Figures.of(busy), rounds / spent)


def _times(call: Call, seconds: float, rate_hz: float | None = None) -> Iterator[float]:
    """Milliseconds of each call; at a rate, or one after the other."""
    for _ in range(WARM_UP):
        call()
    end = time.perf_counter() + seconds
    due = time.perf_counter()
    while True:
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        yield 1e3 * (ended - started)
        if ended >= end:
            return
        if rate_hz is not None:
            due = max(due + 1 / rate_hz, ended)
            time.sleep(due - ended)


@contextmanager
def _saturated(work: Work) -> Iterator[list[None]]:
    """Run the language path without a pause in a thread; gives what grows with each round."""
    done: list[None] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def loop() -> None:
        try:
            while not stop.is_set():
                work.language["image"]()
                work.language["text"]()
                for _ in range(TOKENS):
                    work.language["token"]()
                done.append(None)
        # It is raised again below.
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=loop, name="language")
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def run(name: str, engine: str, seconds: float, *, on_cpu: bool) -> Report:
    """Measure a bundle; see `measure`.

    Raises:
        VlmPerceptionError: the bundle, the engine or the GPU cannot be used.
    """
    bundle = ModelBundle.load(name)
    with Progress(transient=True) as progress:
        figures = measure(
            lambda priority: open_work(bundle, engine, priority=priority, on_cpu=on_cpu),
            seconds,
            progress,
        )
    notes = []
    if on_cpu:
        notes.append(Text("Tested on the CPU: these are not GPU figures.", style="red"))
    if engine != TENSORRT:
        notes.append(Text("Not run on TensorRT.", style="red"))
    content = {
        "valid": None,
        "engine": figures.engine,
        "on_cpu": on_cpu,
        "alone_ms": {work: vars(each) for work, each in figures.alone.items()},
        "encoder_ms": [
            {
                "priority": each.priority,
                "idle": vars(each.idle),
                "busy": vars(each.busy),
                "p99_ratio": each.ratio,
                "language_hz": each.language_hz,
            }
            for each in figures.beside
        ],
    }
    return Report([*_tables(bundle, figures), *notes], content)


def _tables(bundle: ModelBundle, figures: GpuFigures) -> Iterator[Table]:
    title = f"{bundle.manifest.name} in {figures.engine}, ms, each alone"
    table = figure_table(title, "work", "p50", "p99")
    for work, each in figures.alone.items():
        table.add_row(work, f"{each.p50:.3f}", f"{each.p99:.3f}")
    yield table
    title = f"the encoder at {RATE_HZ:g} Hz beside the language path, ms"
    headings = ("idle p50", "idle p99", "busy p50", "busy p99", "p99 ratio", "rounds/s")
    table = figure_table(title, "stream priority", *headings)
    for row in figures.beside:
        times = (row.idle.p50, row.idle.p99, row.busy.p50, row.busy.p99)
        cells = [*(f"{time_ms:.3f}" for time_ms in times), f"{row.ratio:.2f}"]
        table.add_row("yes" if row.priority else "no", *cells, f"{row.language_hz:.1f}")
    yield table
