# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`vlm-perception evaluate agreement`: whether live nodes and offline replay give the same results.

Two offline replays are compared with one live run: one on virtual time, which takes other frames
for its key frames than a loaded machine does, and one on the schedule of the live run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from vlm_perception.common.errors import RunError
from vlm_perception.datasets.roadworld.files.bag import write_bag
from vlm_perception.evaluation.report import FAILED, Report, figure_table
from vlm_perception.outputs.folder import ResultsFolder
from vlm_perception.perception.language.partial_text import UNFINISHED
from vlm_perception.replay.compare.comparable import Outputs, read_outputs
from vlm_perception.replay.compare.compare import Finding, compare
from vlm_perception.replay.compare.tolerances import Tolerances
from vlm_perception.replay.pipeline import EngineOptions
from vlm_perception.replay.recordings.clocks import RECORDING
from vlm_perception.replay.recordings.errors import ReplayError
from vlm_perception.replay.recordings.source import BagSource, open_source
from vlm_perception.replay.run import LOSSES, ReplayOptions, run_replay
from vlm_perception.rosgraph.environment import own_graph, require_ros
from vlm_perception.rosgraph.observer import Observer
from vlm_perception.rosgraph.processes import NodeProcesses, NodeSpec, Parameter
from vlm_perception.rosgraph.recorder import Recorder
from vlm_perception.rosgraph.topics import (
    DETAIL,
    DIAGNOSTICS,
    EMBEDDING,
    EMBEDDING_INFO,
    REASONING,
    SCENE,
)

SEED = 6_000_030
RECORDED = (EMBEDDING, EMBEDDING_INFO, DETAIL, REASONING, SCENE)
NODES = ("scene_fusion", "language_reasoner", "vision_encoder")
READY_WITHIN_S = 60.0
DISCOVERY_S = 3.0
LAST_RESULTS_S = 1.5
LIVE = ("live.mcap", "metadata.yaml", "nodes/*")
TIMING = ("frames", "status")
"""What depends on the machine's load, beside the latencies."""


def run(recording: Path | None, rate: float, engine: str, out: Path) -> Report:
    """Play a bag through the live nodes, replay it offline, and report how far they agree.

    The exit code is 0 when the replay on the robot's schedule agrees within the default tolerances.

    Args:
        recording: the bag; None: 20 seconds of the road world.
        rate: speed of playing.
        engine: of both.
        out: folder for the live bag and both replays.

    Raises:
        VlmPerceptionError: the recording cannot be used.
        RunError: a node failed, or ROS is missing.
    """
    require_ros()
    out.mkdir(parents=True, exist_ok=True)
    recording = recording or _drive(out / "drive")
    live = out / "live"
    with own_graph(), ResultsFolder(live, "evaluate agreement", LIVE, [recording]) as results:
        if results.left_over:
            results.clear()
        _run_live(recording, rate, engine, results.work)
        results.publish()
    outputs = read_outputs(live)
    findings: dict[str, list[Finding]] = {}
    for name, schedule in (("virtual time", None), ("the robot's schedule", live)):
        folder = out / ("free" if schedule is None else "scheduled")
        code = run_replay(
            ReplayOptions(
                recording=recording,
                out=folder,
                speed=rate,
                engine=EngineOptions(engine),
                # The player's /clock has the times of recording.
                time=RECORDING,
                schedule=schedule,
                originals="none",
                overlay=False,
                fresh=True,
            ),
            Console(),
        )
        if code not in (0, LOSSES):
            return Report([], code=code)
        offline = read_outputs(folder)
        findings[name] = compare(_with_cut_captions(outputs, offline), offline, Tolerances())
    figures = {
        name: {each.what: round(each.difference, 6) for each in of} for name, of in findings.items()
    }
    beyond = [each for each in _semantics(findings["the robot's schedule"]) if not each.within]
    warnings = [Text(f"! {each.text}", style="red") for each in beyond]
    table = _table(findings, len(outputs.frames))
    return Report([table, *warnings], figures, code=FAILED if beyond else 0)


def _drive(folder: Path) -> Path:
    if not folder.exists():
        write_bag(folder, size=(640, 360), fps=30, seconds=20.0, seed=SEED)
    return folder


def _run_live(recording: Path, rate: float, engine: str, out: Path) -> None:
    """Play the recording through the three nodes and record their results."""
    source = open_source(recording)
    if not isinstance(source, BagSource):
        raise ReplayError(
            f"{recording} is not a bag, and only a bag can be played to the nodes; `vlm-perception "
            "roadworld bag` makes one"
        )
    shared: Mapping[str, Parameter] = {"use_sim_time": True, "engine": engine}
    compressed = source.type_name.endswith("CompressedImage")
    transport = "compressed" if compressed else "raw"
    image = "image/compressed" if compressed else "image"
    watched = (*RECORDED, DIAGNOSTICS)
    with ExitStack() as stack:
        processes = stack.enter_context(NodeProcesses(out / "nodes"))
        recorder = stack.enter_context(Recorder(out / "live.mcap", watched))
        observer = stack.enter_context(Observer(watched, recorder.put))
        stack.enter_context(Progress(transient=True)).add_task(
            "playing to the live nodes", total=None
        )
        listens: Mapping[str, Parameter] = {"image_transport": transport}
        camera = {image: source.topic}
        processes.start(NodeSpec("scene_fusion", {"use_sim_time": True, **listens}, camera))
        processes.start(NodeSpec("language_reasoner", shared))
        processes.start(NodeSpec("vision_encoder", {**shared, **listens}, camera))
        _wait_until_active(processes, observer)
        command = [sys.executable, "-m", "vlm_perception.rosgraph.bag_player"]
        command += [str(recording.resolve()), "--rate", str(rate)]
        command += ["--delay", str(DISCOVERY_S)]
        player = stack.enter_context(subprocess.Popen(command, cwd=out))
        stack.callback(player.terminate)
        while player.poll() is None:
            _check(processes, recorder)
            time.sleep(0.1)
        if player.returncode:
            raise RunError(f"the player of {recording} ended with {player.returncode}")
        time.sleep(LAST_RESULTS_S)


def _wait_until_active(processes: NodeProcesses, observer: Observer) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not all(_active(observer, name) for name in NODES):
        exited = processes.first_exit()
        if exited is not None:
            raise RunError(str(exited))
        if time.monotonic() > deadline:
            raise RunError(f"the nodes were not active after {READY_WITHIN_S:g} s")
        time.sleep(0.1)


def _active(observer: Observer, name: str) -> bool:
    report = observer.newest_report(name)
    return report is not None and report.values.get("state") == "active"


def _check(processes: NodeProcesses, recorder: Recorder) -> None:
    if recorder.failure:
        raise RunError(recorder.failure)
    exited = processes.first_exit()
    if exited is not None:
        raise RunError(str(exited))


def _with_cut_captions(live: Outputs, offline: Outputs) -> Outputs:
    """The live run, where a caption that ran out of time counts as what it is the beginning of."""
    frames = {}
    for stamp, record in live.frames.items():
        caption = record["caption"]
        whole = offline.frames[stamp]["caption"] if stamp in offline.frames else ""
        end = UNFINISHED.strip()
        cut = caption.endswith(end) and whole.startswith(caption.removesuffix(end).rstrip())
        frames[stamp] = {**record, "caption": whole} if cut else record
    return replace(live, frames=frames)


def _semantics(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if not each.unit and each.what not in TIMING]


def _table(findings: dict[str, list[Finding]], frames: int) -> Table:
    title = f"live nodes compared with offline replay, {frames} frames of the live run"
    table = figure_table(title, "agreement", *(f"on {name}" for name in findings))
    for each in zip(*findings.values(), strict=True):
        table.add_row(each[0].what, *map(_shown, each))
    return table


def _shown(finding: Finding) -> str:
    """Agreement where it is a share, else the difference."""
    if finding.unit:
        return f"{finding.difference:.3g} {finding.unit} apart"
    return f"{100 * (1 - finding.difference):.1f} %"
