# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the running graph from outside: rates, latencies and what each process costs."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from vlm_perception.bundle import ModelBundle
from vlm_perception.demo.environment import own_graph, require_ros
from vlm_perception.demo.graph import DEFAULT_BUNDLE, PROCESSES, Graph, GraphOptions
from vlm_perception.demo.meter import percentiles
from vlm_perception.demo.observer import Analysis, Observer, Report
from vlm_perception.demo.processes import NodeProcesses
from vlm_perception.demo.source import Source, open_source
from vlm_perception.demo.topics import EMBEDDING, MEASURED, REASONING, SCENE
from vlm_perception.demo.usage import Machine, Usage, cpu_percent, look_at_machine, usage_of
from vlm_perception.nodes.shared_memory import shortage
from vlm_perception.replay.interrupt import Interrupt

SETTLE_S = 3.0
START_WITHIN_S = 60.0
POLL_S = 0.2
PUBLISHED = "published"
"""Key under which video_source counts the frames that it published."""

Percentiles = Mapping[str, float]


class BenchError(RuntimeError):
    """The graph could not be measured; the message says why."""


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
    """`processes` or `single`: the three nodes in a process each, or in one."""


@dataclass(frozen=True)
class GraphFigures:
    """What was measured. A latency is from the image's stamp to the arrival in another process."""

    seconds: float
    published: int
    published_hz: float
    encoded: int
    language_hz: float
    analyses_hz: float
    full_analysis_ms: float | None
    full_analysis_p95_ms: float | None
    scene_hz: float
    capture_to_embedding_ms: Percentiles | None
    capture_to_scene_ms: Percentiles | None
    rss_mb: Mapping[str, float]
    cpu_percent: Mapping[str, float]

    @property
    def encoded_share(self) -> float:
        """Frames that arrived as embeddings, of those published in the same time.

        Both ends of that time are known to a frame, so the share is cut at 1.
        """
        return min(1.0, self.encoded / self.published) if self.published else 0.0


def bench_graph(options: BenchOptions, console: Console, json_file: Path | None = None) -> int:
    """Measure the graph and print a table.

    Args:
        options: What to measure.
        console: Where the table goes.
        json_file: Where the figures go, too.

    Returns:
        The exit code: 0, or that of an interruption.

    Raises:
        ValueError: The bundle or the video cannot be used.
        GraphEnvironmentError: ROS or the built messages are missing.
        BenchError: A node ended, or the graph did not come up.
    """
    require_ros()
    bundle = ModelBundle.load(options.bundle)
    source = open_source(options.video)
    if warning := shortage():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    machine = look_at_machine()
    with Interrupt() as interrupt, own_graph(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(NodeProcesses(folder))
        observer = stack.enter_context(Observer(MEASURED))
        wanted = GraphOptions(
            source,
            str(bundle.path.resolve()),
            transport=options.transport,
            loop=True,
            force_keyframes=options.force_keyframes,
            composition=options.composition,
        )
        with console.status("starting the nodes"):
            graph = Graph(wanted, processes, observer)
            wait_until_running(graph, processes, observer, interrupt)
        with console.status(f"measuring for {options.seconds:.0f} s"):
            figures = _measure(options.seconds, processes, observer, interrupt)
    if interrupt or figures is None:
        return interrupt.exit_code()
    setting = Setting(options, source, machine, bundle.digest)
    console.print(as_table(figures, setting))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(
            json.dumps(as_json(figures, setting), indent=2) + "\n", encoding="utf-8"
        )
    return 0


def wait_until_running(
    graph: Graph, processes: NodeProcesses, observer: Observer, interrupt: Interrupt
) -> None:
    """Start the source, wait for the first analysis and let rates settle.

    Raises:
        BenchError: a node ended, or no analysis came.
    """
    started = time.monotonic()
    while not interrupt and not (observer.analyses and observer.meters[SCENE].count):
        check_running(processes, observer)
        graph.play_when_ready()
        if time.monotonic() - started > START_WITHIN_S:
            raise BenchError(f"no scene with an analysis came within {START_WITHIN_S:.0f} s")
        interrupt.sleep(POLL_S)
    interrupt.sleep(SETTLE_S)


def check_running(processes: NodeProcesses, observer: Observer) -> None:
    """Raise BenchError when a node has ended, and what went wrong in the observer's thread."""
    observer.check()
    gone = processes.first_exit()
    if gone is not None:
        raise BenchError(str(gone))


def _measure(
    seconds: float, processes: NodeProcesses, observer: Observer, interrupt: Interrupt
) -> GraphFigures | None:
    before = _usages(processes)
    start_ns, start = time.time_ns(), time.monotonic()
    while not interrupt and time.monotonic() - start < seconds:
        check_running(processes, observer)
        interrupt.sleep(min(POLL_S, max(0.0, start + seconds - time.monotonic())))
    end_ns, elapsed = time.time_ns(), time.monotonic() - start
    if interrupt:
        return None
    check_running(processes, observer)
    after = _usages(processes)
    embeddings = observer.meters[EMBEDDING].between(start_ns, end_ns)
    scenes = observer.meters[SCENE].between(start_ns, end_ns)
    analyses = [each for each in observer.analyses if start_ns < each.received_ns <= end_ns]
    full = _durations(analyses)
    published, encoded, rate = _published_and_encoded(observer, start_ns, end_ns)
    return GraphFigures(
        seconds=elapsed,
        published=published,
        published_hz=rate,
        encoded=encoded,
        language_hz=len(observer.meters[REASONING].between(start_ns, end_ns)) / elapsed,
        analyses_hz=len(full) / elapsed,
        full_analysis_ms=median(full) if full else None,
        full_analysis_p95_ms=(percentiles(full) or {}).get("p95"),
        scene_hz=len({scene.stamp_ns for scene in scenes}) / elapsed,
        capture_to_embedding_ms=percentiles([each.latency_ms for each in embeddings]),
        capture_to_scene_ms=percentiles([each.latency_ms for each in scenes]),
        rss_mb={name: usage.rss_mb for name, usage in after.items()},
        cpu_percent={
            name: cpu_percent(before[name], usage, elapsed) for name, usage in after.items()
        },
    )


def _usages(processes: NodeProcesses) -> dict[str, Usage]:
    pids = processes.pids
    return {name: usage_of(pid) for name, pid in pids.items()}


def _durations(analyses: Sequence[Analysis]) -> list[float]:
    return [each.milliseconds for each in analyses if each.is_keyframe]


def _published_and_encoded(
    observer: Observer, start_ns: int, end_ns: int
) -> tuple[int, int, float]:
    """Frames that the source counted between two of its reports, embeddings of them, its rate."""
    counts = [
        (report.received_ns, number)
        for report in observer.reports.get("video_source", [])
        if start_ns <= report.received_ns <= end_ns and (number := _count(report)) is not None
    ]
    if len(counts) < 2:
        raise BenchError("video_source did not report how many frames it published")
    (first_ns, first), (last_ns, last) = counts[0], counts[-1]
    arrivals = observer.meters[EMBEDDING].between(start_ns, time.time_ns())
    stamps = {each.stamp_ns for each in arrivals if first_ns < each.stamp_ns <= last_ns}
    return last - first, len(stamps), (last - first) / ((last_ns - first_ns) / 1e9)


def _count(report: Report) -> int | None:
    number = report.number(PUBLISHED)
    return None if number is None else int(number)


@dataclass(frozen=True)
class Setting:
    """What the figures hold for."""

    options: BenchOptions
    source: Source
    machine: Machine
    bundle_digest: str


def as_json(figures: GraphFigures, setting: Setting) -> dict[str, object]:
    """The figures under their fixed keys, and what they hold for."""
    return {
        "encoded_share": round(figures.encoded_share, 5),
        "language_hz": round(figures.language_hz, 3),
        "analyses_hz": round(figures.analyses_hz, 3),
        "full_analysis_ms": _rounded(figures.full_analysis_ms),
        "full_analysis_p95_ms": _rounded(figures.full_analysis_p95_ms),
        "scene_hz": round(figures.scene_hz, 3),
        "capture_to_embedding_ms": _rounded_all(figures.capture_to_embedding_ms),
        "capture_to_scene_ms": _rounded_all(figures.capture_to_scene_ms),
        "rss_mb": _rounded_all(figures.rss_mb),
        "cpu_percent": _rounded_all(figures.cpu_percent),
        "published_hz": round(figures.published_hz, 3),
        "published_frames": figures.published,
        "encoded_frames": figures.encoded,
        "seconds": round(figures.seconds, 2),
        "source": setting.source.description,
        "image_size": list(setting.source.size),
        "rate_hz": setting.source.rate_hz,
        "transport": setting.options.transport,
        "force_keyframes": setting.options.force_keyframes,
        "composition": setting.options.composition,
        "bundle_digest": setting.bundle_digest,
        **setting.machine.as_json(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _rounded_all(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else {key: round(value, 2) for key, value in values.items()}


def as_table(figures: GraphFigures, setting: Setting) -> Table:
    """The figures for people."""
    options, machine = setting.options, setting.machine
    width, height = setting.source.size
    forced = ", a full analysis on every tick" if options.force_keyframes else ""
    table = Table(
        title=f"{width}x{height} at {setting.source.rate_hz:.0f} Hz, {options.transport} images, "
        f"{len(figures.rss_mb)} processes, {figures.seconds:.0f} s{forced}",
        caption=f"{machine.cpu_model}, {machine.cpu_count} cores, busy before the start: "
        f"{machine.busy_percent:.0f} % (load {machine.load_average:.1f})",
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("aim", justify="right")
    share = f"{100 * figures.encoded_share:.2f} % ({figures.encoded} of {figures.published})"
    table.add_row("frames published", f"{figures.published_hz:.2f} Hz", "")
    table.add_row("frames encoded", share, ">= 99 %")
    table.add_row("reasoning messages", f"{figures.language_hz:.2f} Hz", ">= 5 Hz")
    wanted = ">= 5 Hz" if options.force_keyframes else ""
    table.add_row("full analyses", f"{figures.analyses_hz:.2f} Hz", wanted)
    table.add_row("a full analysis, median", _shown(figures.full_analysis_ms), "")
    table.add_row("scenes of new images", f"{figures.scene_hz:.2f} Hz", ">= 29 Hz")
    for name, latency, aim in (
        ("capture to embedding", figures.capture_to_embedding_ms, ""),
        ("capture to scene", figures.capture_to_scene_ms, "p95 <= 66 ms"),
    ):
        text = " / ".join(f"{value:.1f}" for value in (latency or {}).values()) or "-"
        table.add_row(f"{name}, p50/p95/p99", f"{text} ms", aim)
    table.add_section()
    for name, megabytes in figures.rss_mb.items():
        cost = f"{figures.cpu_percent[name]:.0f} % of a core, {megabytes:.0f} MB"
        table.add_row(name, cost, "")
    return table


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"
