# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Run the graph for a long time: does memory grow, do rates fall?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import RunError
from vlm_perception.common.interrupt import INTERRUPTED, Interrupt
from vlm_perception.evaluation.report import FAILED, Report
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.launch import Graph, GraphOptions
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.process_usage import look_at_machine, usage_of
from vlm_perception.rosgraph.processes import NodeProcesses
from vlm_perception.rosgraph.source import open_source
from vlm_perception.rosgraph.topics import DIAGNOSTICS, EMBEDDING, EMBEDDING_INFO, REASONING, SCENE

SAMPLE_S = 2.0
START_WITHIN_S = 90.0
MOST_GROWTH_PERCENT = 1.0
MOST_DRIFT_PERCENT = 2.0
COMPARED_SHARE = 0.2
"""The last part of the run, which is compared with the first part after the warm-up."""
RATES = (EMBEDDING, REASONING, SCENE)


class SoakError(RunError):
    """The graph did not come up, or a node ended; the message says which."""


@dataclass(frozen=True)
class Reading:
    """One look at the graph."""

    rss_mb: Mapping[str, float]
    """Of each process."""
    rate_hz: Mapping[str, float]
    """Of each topic, since the look before."""


@dataclass(frozen=True)
class Growth:
    """How a figure changed from the first part of the run to the last."""

    first: float
    last: float

    @property
    def percent(self) -> float:
        """Change in percent of the first."""
        return 100 * (self.last / self.first - 1) if self.first else 0.0


def run(minutes: float, warm_up_s: float, bundle_name: str) -> Report:
    """Run the graph; the exit code is 0 when nothing grows or falls.

    Args:
        minutes: how long, after the warm-up.
        warm_up_s: seconds that are not counted.
        bundle_name: the model.

    Raises:
        VlmPerceptionError: the bundle cannot be used.
        GraphEnvironmentError: ROS or the built messages are missing.
        SoakError: the graph did not come up, or a node ended.
    """
    require_ros()
    bundle = ModelBundle.load(bundle_name)
    source = open_source(None)
    machine = look_at_machine()
    samples: list[Reading] = []
    with Interrupt() as interrupt, own_graph(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(NodeProcesses(folder))
        observer = stack.enter_context(Observer((*RATES, EMBEDDING_INFO, DIAGNOSTICS)))
        graph = Graph(
            GraphOptions(source, str(bundle.path.resolve()), loop=True), processes, observer
        )
        progress = stack.enter_context(Progress(transient=True))
        bar = progress.add_task("warming up", total=60 * minutes)
        began = time.monotonic()
        while not interrupt and not observer.meters[EMBEDDING].count:
            graph.play_when_ready()
            _check(processes, observer)
            if time.monotonic() - began > START_WITHIN_S:
                raise SoakError(
                    f"no embedding arrived within {START_WITHIN_S:.0f} s; see the nodes' logs"
                )
            interrupt.sleep(0.1)
        interrupt.sleep(warm_up_s)
        progress.update(bar, description="soaking")
        began = looked = time.monotonic()
        counts = {topic: observer.meters[topic].count for topic in RATES}
        while not interrupt and looked - began < 60 * minutes:
            interrupt.sleep(SAMPLE_S)
            _check(processes, observer)
            now, seen = time.monotonic(), {t: observer.meters[t].count for t in RATES}
            rates = {t.name: (seen[t] - counts[t]) / (now - looked) for t in RATES}
            memory = {name: usage_of(pid).rss_mb for name, pid in processes.pids.items()}
            samples.append(Reading(memory, rates))
            counts, looked = seen, now
            progress.update(bar, completed=now - began)
        lasted = (looked - began) / 60
    if not samples:
        return Report([], code=interrupt.exit_code(INTERRUPTED))
    memory_growth, rate_growth = growths(samples)
    worst = max(each.percent for each in memory_growth.values())
    drift = max(abs(each.percent) for each in rate_growth.values())
    table = _table(lasted, memory_growth, rate_growth)
    if interrupt:
        cut = f"interrupted after {lasted:.1f} of {minutes:g} min: no verdict"
        return Report([table, cut], code=interrupt.exit_code(INTERRUPTED))
    figures = {
        "valid": None,
        "minutes": round(lasted, 2),
        "rss_growth_percent": round(worst, 3),
        "rate_drift_percent": round(drift, 3),
        "rss_mb": {name: [each.first, each.last] for name, each in memory_growth.items()},
        "rate_hz": {name: [each.first, each.last] for name, each in rate_growth.items()},
        "bundle_digest": bundle.digest,
        **machine.as_json(),
    }
    steady = worst < MOST_GROWTH_PERCENT and drift < MOST_DRIFT_PERCENT
    return Report([table], figures, code=0 if steady else FAILED)


def growths(samples: Sequence[Reading]) -> tuple[dict[str, Growth], dict[str, Growth]]:
    """Compare the medians of the first and the last part, of the memory and of the rates."""
    part = max(1, round(COMPARED_SHARE * len(samples)))
    first, last = samples[:part], samples[-part:]
    memory = {
        name: Growth(
            median(each.rss_mb[name] for each in first), median(each.rss_mb[name] for each in last)
        )
        for name in samples[0].rss_mb
    }
    rates = {
        name: Growth(
            median(each.rate_hz[name] for each in first),
            median(each.rate_hz[name] for each in last),
        )
        for name in samples[0].rate_hz
    }
    return memory, rates


def _check(processes: NodeProcesses, observer: Observer) -> None:
    observer.check()
    gone = processes.first_exit()
    if gone is not None:
        raise SoakError(str(gone))


def _table(minutes: float, memory: Mapping[str, Growth], rates: Mapping[str, Growth]) -> Table:
    table = Table("what", "first fifth", "last fifth", "change", title=f"Soak of {minutes:.0f} min")
    for name, each in memory.items():
        table.add_row(name, f"{each.first:.1f} MB", f"{each.last:.1f} MB", f"{each.percent:+.2f} %")
    for name, each in rates.items():
        table.add_row(name, f"{each.first:.2f} Hz", f"{each.last:.2f} Hz", f"{each.percent:+.2f} %")
    return table
