# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the start: what a node reads then is gone or another's, or a signal comes meanwhile."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from vlm_perception.bundle.bundle import MANIFEST_NAME
from vlm_perception.bundle.manifest import manifest_digest
from vlm_perception.common.share import share_folder
from vlm_perception.evaluation.chaos.testbed.finding import (
    LOAD_S,
    NOTICED_WITHIN_S,
    RECOVERED_WITHIN_S,
    Finding,
    within,
)
from vlm_perception.evaluation.chaos.testbed.outcome import overcome
from vlm_perception.evaluation.chaos.testbed.participant import wait
from vlm_perception.evaluation.chaos.testbed.stage import FUSION, NODES, REASONER, Stage

BAD_INPUT = 2
"""The exit code of a node that cannot do its work with what it was given."""
SIGNALS = 30
SPREAD_S = 3.0
"""From a program's first line until its node is active, and some more."""
ENDED_WITHIN_S = 5.0


def parameters_vanished(stage: Stage) -> Finding:
    """Start a killed node without its parameter file, and again with it."""
    missing = stage.folder / "vanished.yaml"
    since = stage.kill(FUSION)
    code, output = _run(FUSION, "--params-file", str(missing))
    respawned = stage.respawn(FUSION)
    active = stage.participant.active_since(FUSION, respawned, LOAD_S)
    well = stage.well_again(active, LOAD_S) if active is not None else None
    noticed = stage.silenced(since)
    recovered = well.at_s - active if well and active else None
    named = next((line for line in output.splitlines() if missing.name in line), "")
    return Finding(
        "a parameter file vanishes",
        f"exit code {code}: {named or 'the file is not named'}",
        noticed,
        recovered,
        0,
        code == BAD_INPUT
        and bool(named)
        and "Traceback" not in output
        and within(noticed, NOTICED_WITHIN_S)
        and within(recovered, RECOVERED_WITHIN_S),
    )


def bundle_swapped(stage: Stage) -> Finding:
    """Put another bundle into the place of the one in use; a restarted node reads that."""
    path, kept = Path(stage.bundle), stage.folder / "kept"
    other = _altered(path, stage.folder / "other")
    path.rename(kept)
    other.rename(path)
    try:
        since = stage.kill(REASONER)
        stage.respawn(REASONER)
        diagnosis = stage.diagnosis(since, REASONER, about="bundle", within_s=LOAD_S)
    finally:
        path.rename(other)
        kept.rename(path)
    stage.kill(REASONER)
    back = stage.participant.active_since(REASONER, stage.respawn(REASONER), LOAD_S)
    return overcome(
        stage,
        "the bundle is swapped while it is in use",
        since,
        back or time.monotonic(),
        FUSION,
        seen=diagnosis.message if diagnosis else "language_reasoner does not name the bundles",
        ok=diagnosis is not None and back is not None,
    )


def signalled(stage: Stage) -> Finding:
    """Send SIGINT or SIGTERM to each node at moments from its first line until it works."""
    bad = []
    for number in range(SIGNALS):
        node = NODES[number % len(NODES)]
        kind = (signal.SIGINT, signal.SIGTERM)[number // len(NODES) % 2]
        after_s = SPREAD_S * number / SIGNALS
        code, output = _end(stage, node, kind, after_s)
        if code != 0 or "Traceback" in output:
            bad.append(f"{node} ended with {code} after {kind.name} at {after_s:.1f} s")
    return Finding(
        f"{SIGNALS} signals while nodes start",
        "; ".join(bad) or "each exited with 0 and without a trace",
        None,
        None,
        0,
        not bad,
    )


def _altered(bundle: Path, folder: Path) -> Path:
    """Copy a bundle and change a threshold: as good as before, and another one."""
    shutil.copytree(bundle, folder)
    manifest = folder / MANIFEST_NAME
    content = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    content["vocabulary"]["threshold"] *= 0.99
    content["digest"] = manifest_digest(content)
    manifest.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder


def _program(node: str) -> list[str]:
    """The installed program of a node, in a namespace of its own, beside those on stage."""
    installed = share_folder().parent.parent / "lib" / "vlm_perception" / node
    return [sys.executable, str(installed), "--ros-args", "-r", "__ns:=/apart"]


def _run(node: str, *arguments: str) -> tuple[int, str]:
    """Run a node that must end by itself; its exit code and output."""
    command: Sequence[str] = [*_program(node), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=LOAD_S, check=False
    )
    return done.returncode, done.stderr + done.stdout


def _end(stage: Stage, node: str, kind: signal.Signals, after_s: float) -> tuple[int | None, str]:
    """Start a node, send it a signal some time after its first line; its exit code and output."""
    log = stage.folder / "signalled.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            _program(node), stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=stage.folder
        )
    try:
        wait(lambda: _catches_terminate(process.pid), LOAD_S)
        time.sleep(after_s)
        process.send_signal(kind)
        code: int | None = process.wait(ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        process.kill()
        process.wait()
    return code, log.read_text(encoding="utf-8", errors="replace")


def _catches_terminate(pid: int) -> bool:
    """Whether a process handles SIGTERM, as ours do from their first line on; see proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
