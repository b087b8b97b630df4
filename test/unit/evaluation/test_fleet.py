# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Robots that share a server: what `bench fleet` counts of them is what the server was asked."""

import json

from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer


def test_robots_ask_one_server(tmp_path):
    file = tmp_path / "fleet.json"
    with BundleServer(ModelBundle.load("roadworld-nano")) as server:
        command = ["bench", "fleet", "--robots", "2", "--seconds", "3", "--json", str(file)]
        told = CliRunner().invoke(app, [*command, "--endpoint", server.url, "--model", MODEL])
        assert told.exit_code == 0, told.output
        asked = len(server.bodies)
    figures = json.loads(file.read_text())
    assert [each["robots"] for each in figures["fleet"]] == [1, 2]
    for each in figures["fleet"]:
        assert each["failed"] == 0 and each["analyses_hz"] > 0.0
        assert 0.0 < each["keyframe_share"] <= 1.0 and each["age_p50_s"] <= each["age_p95_s"]
    assert asked >= sum(each["requests_hz"] for each in figures["fleet"]) * 3.0
    elsewhere = [*command, "--endpoint", "http://192.0.2.7/v1", "--model", MODEL]
    refused = CliRunner().invoke(app, elsewhere)
    assert refused.exit_code == 2 and "allow_remote" in " ".join(refused.output.split())
