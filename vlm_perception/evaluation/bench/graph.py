# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the running graph from outside: rates, latencies and what each process costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rich.console import Console

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.fastdds_shared_memory import shortage
from vlm_perception.common.interrupt import INTERRUPTED, Interrupt
from vlm_perception.evaluation.bench.graph_figures import BenchError, CameraWatch
from vlm_perception.evaluation.bench.graph_report import Setting, Span, as_json, as_tables
from vlm_perception.evaluation.report import Report
from vlm_perception.outputs.console import say
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.launch import (
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
START_WITHIN_S = 120.0
"""For each camera: its processes share the cores while they load."""
POLL_S = 0.2


class Playing(Protocol):
    """Nodes whose sources wait until they are ready."""

    def play_when_ready(self) -> None:
        """Start the sources that can be; call it often."""


def run(  # noqa: PLR0913 - the verb's options
    *,
    seconds: float,
    force_keyframes: bool,
    transport: str,
    bundle_name: str,
    video: str | None,
    composition: str,
    cameras: int,
    rate_hz: float | None,
    language_dead: bool,
    served: Mapping[str, str | bool] | None = None,
) -> Report:
    """Measure the graph.

    Args:
        seconds: How long.
        force_keyframes: Whether every tick gets a full analysis.
        transport: How images travel, `compressed` or `raw`.
        bundle_name: The model.
        video: What to play instead of the road world.
        composition: `processes` or `single`: each node in a process of its own, or all in one.
        cameras: How many, each with its encoder and its fusion.
        rate_hz: Images a second of each camera; None: the source's own rate.
        language_dead: Whether to measure once more with the language node killed.
        served: Parameters of the language node for a model that a server runs.

    Raises:
        VlmPerceptionError: The bundle or the video cannot be used, or the options contradict each
            other.
        GraphEnvironmentError: ROS or the built messages are missing.
        BenchError: A node ended, or the graph did not come up.
    """
    if language_dead and composition != PROCESSES:
        raise VlmPerceptionError(
            "--language-dead kills the language node's process, which with --composition single "
            "runs all nodes; use --composition processes"
        )
    require_ros()
    bundle = ModelBundle.load(bundle_name)
    sources = _sources(video, cameras, rate_hz)
    console = Console()
    if warning := shortage():
        say(console, f"warning: {warning}", "yellow")
    machine = look_at_machine()
    source = next(iter(sources.values()))
    wanted = GraphOptions(
        source,
        str(bundle.path.resolve()),
        transport=transport,
        loop=True,
        force_keyframes=force_keyframes,
        composition=composition,
        language=served or {},
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
        with console.status(f"measuring for {seconds:.0f} s"):
            spans.append(bench.measure(seconds))
        if language_dead and not interrupt:
            processes.kill(REASONER)
            with console.status(f"measuring for {seconds:.0f} s without {REASONER}"):
                interrupt.sleep(SETTLE_S)
                spans.append(bench.measure(seconds))
    span, without_language = (*spans, None)[:2]
    if interrupt or span is None:
        return Report([], code=interrupt.exit_code(INTERRUPTED))
    setting = Setting(
        source,
        transport,
        force_keyframes,
        composition,
        machine,
        bundle.digest,
    )
    tables = list(as_tables(span, without_language, setting))
    return Report(tables, as_json(span, without_language, setting))


def _sources(video: str | None, cameras: int, rate_hz: float | None) -> dict[str, Source]:
    """What each camera plays, by its name; the only camera has none."""
    several = cameras > 1
    names = [f"camera_{index}" for index in range(cameras)] if several else [""]
    return {
        name: open_source(video, rate_hz=rate_hz, seed=ROADWORLD_SEED + index)
        for index, name in enumerate(names)
    }


def wait_until_running(
    graph: Playing,
    processes: NodeProcesses,
    observers: Iterable[Observer],
    interrupt: Interrupt,
    within_s: float = START_WITHIN_S,
) -> None:
    """Start the sources, wait for the first analysis of each camera and let rates settle.

    Args:
        graph: the nodes.
        processes: theirs.
        observers: one for each camera.
        interrupt: ends the wait.
        within_s: how long each camera may take.

    Raises:
        BenchError: a node ended, or no analysis came.
    """
    started, waiting = time.monotonic(), list(observers)
    within = within_s * len(waiting)
    while not interrupt and waiting:
        for observer in waiting:
            check_running(processes, observer)
        graph.play_when_ready()
        if time.monotonic() - started > within:
            raise BenchError(
                f"no scene with an analysis arrived within {within:.0f} s; see the nodes' logs"
            )
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
        """Observe for this long; None when interrupted."""
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
