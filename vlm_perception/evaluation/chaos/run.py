# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Try the faults one after the other, print a table and write the findings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.fastdds_shared_memory import shortage
from vlm_perception.evaluation.chaos.faults import (
    damage,
    details,
    full_memory,
    peers,
    processes,
    served,
    starts,
    streams,
    surroundings,
    workers,
)
from vlm_perception.evaluation.chaos.fuzz import fuzz
from vlm_perception.evaluation.chaos.testbed.faulty_camera import COMPRESSED
from vlm_perception.evaluation.chaos.testbed.finding import Finding
from vlm_perception.evaluation.chaos.testbed.stage import NODES, ChaosError, Stage
from vlm_perception.evaluation.report import FAILED, Report
from vlm_perception.outputs.console import say
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.process_usage import look_at_machine

HOUR_NS = 3600 * streams.SECOND_NS
PLAIN, SIM_TIME, JPEG, SERVED = "plain", "sim time", "jpeg", "served"
CANCELLED = 50
"""Descriptions."""
STAGES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    SIM_TIME: {"sim_time": True},
    JPEG: {"transport": COMPRESSED},
    SERVED: {"served": served.PARAMETERS},
}
"""What the graph is started with, for the faults that are tried on it."""


@dataclass(frozen=True)
class Trial:
    """A fault that can be tried."""

    name: str
    attempt: Callable[[Stage], Finding]
    stage: str = PLAIN


def run(bundle_name: str, kills: int, messages: int, only: Sequence[str]) -> Report:
    """Try the faults; the exit code is 0 when each is as it must be, else 1.

    Args:
        bundle_name: the model.
        kills: how many in a row.
        messages: how many are fuzzed.
        only: parts of the names of the faults to try; empty: all.

    Raises:
        VlmPerceptionError: the bundle cannot be used, or no fault has such a name.
        GraphEnvironmentError: ROS or the built messages are missing.
        ChaosError: the graph does not come up.
    """
    require_ros()
    bundle = str(ModelBundle.load(bundle_name).path.resolve())
    chosen = choose(trials(kills, messages), only)
    console = Console()
    if warning := shortage():
        say(console, f"warning: {warning}", "yellow")
    machine = look_at_machine()
    findings: list[Finding] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(Progress(console=console, transient=True))
        bar = progress.add_task("Faults", total=len(chosen))
        # A copy, since it will be tampered with.
        copy = str(shutil.copytree(bundle, folder / "bundle"))
        for kind, manner in STAGES.items():
            group = [trial for trial in chosen if trial.stage == kind]
            if not group:
                continue
            with own_graph(), Stage(copy, folder, **manner) as stage:
                for trial in group:
                    progress.update(bar, description=trial.name)
                    findings.append(_try(stage, trial))
                    progress.advance(bar)
                    if not console.is_terminal:
                        say(console, _line(findings[-1]))
    where = (
        f"{machine.cpu_model}, {machine.cpu_count} cores, busy before the start: "
        f"{machine.busy_percent:.0f} %"
    )
    return Report(
        [as_table(findings), where],
        {"faults": [asdict(each) for each in findings], **machine.as_json()},
        code=0 if all(finding.ok for finding in findings) else FAILED,
    )


def choose(known: Sequence[Trial], only: Sequence[str]) -> list[Trial]:
    """Return the faults that were asked for.

    Raises:
        VlmPerceptionError: there is none of such a name.
    """
    for part in only:
        if not any(part in trial.name for trial in known):
            names = ", ".join(trial.name for trial in known)
            raise VlmPerceptionError(f"no fault is named {part!r}; there are: {names}")
    return [t for t in known if not only or any(part in t.name for part in only)]


def _try(stage: Stage, trial: Trial) -> Finding:
    try:
        stage.settle()
        return trial.attempt(stage)
    except ChaosError as error:
        return Finding(trial.name, str(error), None, None, 0, ok=False)


def trials(kills: int, messages: int) -> Sequence[Trial]:
    """Every fault, in the order in which they are tried."""
    future = partial(
        streams.stamped, name="images from the future", stamp=lambda _, now: now + HOUR_NS
    )
    return (
        *(Trial(f"kill -9 {node}", partial(processes.killed, node=node)) for node in NODES),
        Trial("kill -9 the camera", surroundings.camera_killed),
        Trial("kill -9 a recorder", surroundings.recorder_killed),
        Trial("language_reasoner is stopped", processes.stopped),
        *(Trial(f"{node} hangs", partial(workers.hung, node=node)) for node in NODES),
        Trial("video_source hangs", workers.source_hung),
        Trial("camera stops", streams.silence),
        Trial("camera changes size and encoding", streams.new_formats),
        Trial("camera at 120 Hz", lambda s: streams.rate(s, 120.0)),
        Trial("camera at 1 Hz", lambda s: streams.rate(s, 1.0)),
        Trial("images out of order", streams.disordered),
        Trial("images twice", streams.duplicated),
        Trial("stamp 0", lambda s: streams.stamped(s, "images with stamp 0", lambda *_: 0)),
        Trial("stamps from the future", future),
        Trial("two cameras on one topic", peers.two_cameras),
        Trial("another type on the topic", peers.foreign_type),
        Trial("incompatible QoS", peers.incompatible_qos),
        Trial("request without an answer", details.unanswered),
        Trial("answers for another run", details.misanswered),
        Trial("parameter file vanishes", starts.parameters_vanished),
        Trial("bundle is swapped", starts.bundle_swapped),
        Trial("signals at the start", starts.signalled),
        Trial("disk full", surroundings.disk_full),
        Trial("shared memory full", full_memory.attempt),
        Trial(f"{messages} fuzzed messages", lambda s: fuzz(s, messages)),
        Trial(f"{kills} kills", lambda s: processes.many_kills(s, kills)),
        Trial("damaged images", damage.damaged, JPEG),
        Trial("JPEG bomb", damage.bomb, JPEG),
        Trial("clock forwards", lambda s: streams.clock_jump(s, 1000.0), SIM_TIME),
        Trial("clock backwards", lambda s: streams.clock_jump(s, -1000.0), SIM_TIME),
        *(
            Trial(fault.name, partial(served.attempt, fault=fault), SERVED)
            for fault in served.SERVER_FAULTS
        ),
        Trial("served: descriptions", lambda s: served.cancelled(s, CANCELLED), SERVED),
        Trial("served: late start", served.starts_late, SERVED),
    )


def _line(finding: Finding) -> str:
    times = (
        f"noticed {_seconds(finding.noticed_s)}",
        f"diagnosed {_seconds(finding.diagnosed_s)}",
        f"recovered {_seconds(finding.recovered_s)}",
    )
    return f"{finding.name}: {finding.seen}; {', '.join(times)}; {_verdict(finding)}"


def as_table(findings: Sequence[Finding]) -> Table:
    """The findings for people."""
    table = Table(
        "fault", "what was seen", "noticed", "diagnosed", "recovered", "lost", "", title="Chaos"
    )
    for finding in findings:
        table.add_row(
            finding.name,
            finding.seen,
            _seconds(finding.noticed_s),
            _seconds(finding.diagnosed_s),
            _seconds(finding.recovered_s),
            str(finding.lost),
            _verdict(finding),
        )
    return table


def _verdict(finding: Finding) -> str:
    return "ok" if finding.ok else "NOT OK"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
