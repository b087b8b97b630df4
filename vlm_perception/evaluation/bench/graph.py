# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the running graph from outside: rates, latencies and what each process costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.fastdds_shared_memory import shortage
from vlm_perception.common.interrupt import INTERRUPTED, Interrupt
from vlm_perception.evaluation.bench.graph_figures import BenchError, CameraWatch
from vlm_perception.evaluation.bench.graph_report import Setting, Span, as_json, as_tables
from vlm_perception.outputs.file import write_figures
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.launch import (
    DEFAULT_BUNDLE,
    PROCESSES,
    REASONER,
    Cameras,
    Graph,
    GraphOptions,
)
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.process_usage import Usage, cpu_percent, look_at_machine, usage_of
from vlm_perception.rosgraph.processes import NodeProcesses
from vlm_perception.rosgraph.source import ROADWORLD_SEED, Source, open_source
from vlm_perception.rosgraph.topics import SCENE

SETTLE_S = 3.0
START_WITHIN_S = 60.0
"""For each camera: its processes share the cores while they load."""
POLL_S = 0.2


@dataclass(frozen=True)
class BenchOptions:
    """What `vlm-perception bench graph` is asked for."""

    seconds: float = 60.0
    force_keyframes: bool = False
    transport: str = "compressed"
    bundle: str = DEFAULT_BUNDLE
    video: str | None = None
    """What to play instead of the road world."""
    composition: str = PROCESSES
    """`processes` or `single`: each node in a process of its own, or all in one."""
    cameras: int = 1
    rate_hz: float | None = None
    """Images a second of each camera; None: the source's own rate."""
    language_dead: bool = False
    """Whether to measure once more with the language node killed."""


class Playing(Protocol):
    """Nodes whose sources wait until they are ready."""

    def play_when_ready(self) -> None:
        """Start the sources that can be; call it often."""


def bench_graph(options: BenchOptions, console: Console, json_file: Path | None = None) -> int:
    """Measure the graph and print tables.

    Args:
        options: What to measure.
        console: Where the tables go.
        json_file: Where the figures go, too.

    Returns:
        The exit code: 0, or that of an interruption.

    Raises:
        VlmPerceptionError: The bundle or the video cannot be used.
        GraphEnvironmentError: ROS or the built messages are missing.
        BenchError: A node ended, or the graph did not come up.
    """
    require_ros()
    bundle = ModelBundle.load(options.bundle)
    sources = _sources(options)
    if warning := shortage():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    machine = look_at_machine()
    source = next(iter(sources.values()))
    wanted = GraphOptions(
        source,
        str(bundle.path.resolve()),
        transport=options.transport,
        loop=True,
        force_keyframes=options.force_keyframes,
        composition=options.composition,
    )
    spans: list[Span | None] = []
    with Interrupt() as interrupt, own_graph(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(NodeProcesses(folder))
        watches = {name: CameraWatch(name) for name in sources}
        observers = {name: stack.enter_context(watch.observer) for name, watch in watches.items()}
        bench = _Bench(processes, watches, interrupt)
        with console.status("starting the nodes"):
            graph: Playing = (
                Graph(wanted, processes, observers[""])
                if "" in sources
                else Cameras(wanted, sources, processes, observers)
            )
            wait_until_running(graph, processes, observers.values(), interrupt)
        with console.status(f"measuring for {options.seconds:.0f} s"):
            spans.append(bench.measure(options.seconds))
        if options.language_dead and not interrupt:
            processes.kill(REASONER)
            with console.status(f"measuring for {options.seconds:.0f} s without {REASONER}"):
                interrupt.sleep(SETTLE_S)
                spans.append(bench.measure(options.seconds))
    span, without_language = (*spans, None)[:2]
    if interrupt or span is None:
        return interrupt.exit_code(INTERRUPTED)
    setting = Setting(
        source,
        options.transport,
        options.force_keyframes,
        options.composition,
        machine,
        bundle.digest,
    )
    for table in as_tables(span, without_language, setting):
        console.print(table)
    if json_file is not None:
        content = as_json(span, without_language, setting)
        write_figures(json_file, content)
    return 0


def _sources(options: BenchOptions) -> dict[str, Source]:
    """What each camera plays, by its name; the only camera has none."""
    several = options.cameras > 1
    names = [f"camera_{index}" for index in range(options.cameras)] if several else [""]
    return {
        name: open_source(options.video, rate_hz=options.rate_hz, seed=ROADWORLD_SEED + index)
        for index, name in enumerate(names)
    }


def wait_until_running(
    graph: Playing,
    processes: NodeProcesses,
    observers: Iterable[Observer],
    interrupt: Interrupt,
) -> None:
    """Start the sources, wait for the first analysis of each camera and let rates settle.

    Raises:
        BenchError: a node ended, or no analysis came.
    """
    started, waiting = time.monotonic(), list(observers)
    within = START_WITHIN_S * len(waiting)
    while not interrupt and waiting:
        for observer in waiting:
            check_running(processes, observer)
        graph.play_when_ready()
        if time.monotonic() - started > within:
            raise BenchError(f"no scene with an analysis came within {within:.0f} s")
        interrupt.sleep(POLL_S)
        waiting = [each for each in waiting if not (each.analyses and each.meters[SCENE].count)]
    interrupt.sleep(SETTLE_S)


def check_running(processes: NodeProcesses, observer: Observer) -> None:
    """Raise BenchError when a node has ended, and what went wrong in the observer's thread."""
    observer.check()
    gone = processes.first_exit()
    if gone is not None:
        raise BenchError(str(gone))


class _Bench:
    """The running graph and who watches it."""

    def __init__(
        self,
        processes: NodeProcesses,
        watches: Mapping[str, CameraWatch],
        interrupt: Interrupt,
    ) -> None:
        self._processes, self._watches, self._interrupt = processes, watches, interrupt

    def measure(self, seconds: float) -> Span | None:
        """Look on for so long; None when interrupted."""
        before = self._usages()
        start_ns, start = time.time_ns(), time.monotonic()
        while not self._interrupt and time.monotonic() - start < seconds:
            self._check()
            self._interrupt.sleep(min(POLL_S, max(0.0, start + seconds - time.monotonic())))
        end_ns, elapsed = time.time_ns(), time.monotonic() - start
        if self._interrupt:
            return None
        self._check()
        after = self._usages()
        return Span(
            seconds=elapsed,
            cameras={
                name: watch.figures(start_ns, end_ns) for name, watch in self._watches.items()
            },
            rss_mb={name: usage.rss_mb for name, usage in after.items()},
            cpu_percent={
                name: cpu_percent(before[name], usage, elapsed) for name, usage in after.items()
            },
        )

    def _check(self) -> None:
        for watch in self._watches.values():
            check_running(self._processes, watch.observer)

    def _usages(self) -> dict[str, Usage]:
        return {name: usage_of(pid) for name, pid in self._processes.pids.items()}
