# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Faults on the running graph: real processes are killed and fed with rubbish, and live on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.evaluation.chaos.testbed import stage as stages
from vlm_perception.evaluation.chaos.testbed.faulty_camera import Camera
from vlm_perception.evaluation.chaos.testbed.participant import Participant, Report, Seen
from vlm_perception.evaluation.soak import Reading, growths
from vlm_perception.types import Status


@pytest.mark.alone
def test_a_killed_node_is_noticed_and_rubbish_ends_none(
    siglip_bundle: ModelBundle, tmp_path: Path
) -> None:
    file = tmp_path / "chaos.json"
    arguments = ["--bundle", str(siglip_bundle.path), "--messages", "200", "--json", str(file)]
    wanted = ["--only", "kill -9 vision", "--only", "fuzzed"]
    result = CliRunner().invoke(app, ["chaos", *arguments, *wanted], catch_exceptions=False)
    assert result.exit_code in (0, 1), "how soon it was noticed hangs on the machine"
    killed, fuzzed = json.loads(file.read_text())["faults"]
    keys = {"name", "seen", "noticed_s", "diagnosed_s", "recovered_s", "lost", "ok"}
    assert set(killed) == keys
    assert "NO_EMBEDDING" in killed["seen"] and killed["noticed_s"] > 0 and killed["lost"] > 0
    assert killed["diagnosed_s"] > 0
    assert killed["recovered_s"] is not None
    assert "3 of 3 nodes alive" in fuzzed["seen"] and " 0 warnings" not in fuzzed["seen"]
    assert fuzzed["recovered_s"] is not None


def test_a_fault_begins_when_no_node_complains_of_the_last_one_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SETTLE_S", 0.1)
    stage = stages.Stage("bundle", tmp_path)
    stage.participant = seen = Participant()
    stage.camera = Camera(seen)
    settled = threading.Event()

    def look() -> None:
        for number in range(1000):
            if settled.wait(0.01):
                return
            now = time.monotonic()
            seen.scenes.append(Seen(now, number, Status.OK, "", (640, 360)))
            for node in stages.NODES:
                old = number < 50 and node == stages.ENCODER
                report = Report(now, int(old), "an image was skipped" if old else "active")
                seen.reports.setdefault(node, []).append(report)

    thread = threading.Thread(target=look)
    thread.start()
    stage.settle()
    reports = [seen.newest_report(node) for node in stages.NODES]
    since = time.monotonic()
    seen.reports[stages.ENCODER].append(Report(since + 0.01, 1, "a new one"))
    diagnosis = stage.diagnosis(since)
    settled.set()
    thread.join()
    assert all(report is not None and report.level == 0 for report in reports)
    assert diagnosis is not None and diagnosis.message == "a new one"


@pytest.mark.parametrize(
    "arguments", [["--only", "earthquake"], ["--bundle", "missing"], ["--kills", "0"]]
)
def test_what_cannot_be_tried_is_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["chaos", *arguments])
    assert result.exit_code == 2, result.output


def test_growth_is_that_of_the_last_part_over_the_first() -> None:
    samples = [Reading({"a": 100 + i, "b": 50.0}, {"scene": 30.0 - 0.1 * i}) for i in range(100)]
    memory, rates = growths(samples)
    assert memory["a"].percent == pytest.approx(100 * (189.5 / 109.5 - 1))
    assert memory["b"].percent == 0.0
    assert rates["scene"].percent == pytest.approx(100 * (21.05 / 29.05 - 1))
