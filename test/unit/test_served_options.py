# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The way to a server on the command line: the same options, and the same care, for all verbs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.places import DATA
from typer.testing import CliRunner

from vlm_perception.cli import app

REMOTE = "http://192.0.2.7:8000/v1"
"""An address that is nobody's (RFC 5737)."""
PARAMETERS = f"""
/**/language_reasoner:
  ros__parameters: {{language: served, endpoint: "{REMOTE}", model: m}}
"""
VERBS = {
    "demo": ["demo", "--served", "m"],
    "bench graph": ["bench", "graph", "--served", "m"],
    "bench fleet": ["bench", "fleet", "--model", "m"],
    "calibrate answers": [
        *("calibrate", "answers", "--data", "missing", "--out", "missing/out.yaml"),
        *("--served", "m"),
    ],
    "evaluate judge": ["evaluate", "judge", "--model", "m", "--data", "missing"],
    "locate": ["locate", "missing.png", "car", "--method", "model", "--served", "m"],
    "replay": ["replay", str(DATA / "drive"), "--served", "live"],
}


def told(arguments: list[str]) -> str:
    """What a command that is refused says."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("verb", VERBS)
def test_images_leave_the_machine_only_where_that_is_allowed(verb: str, tmp_path: Path) -> None:
    given = VERBS[verb]
    if verb == "replay":
        file = tmp_path / "served.yaml"
        file.write_text(PARAMETERS)
        given = [*given, "--params", str(file), "--out", str(tmp_path / "out")]
    else:
        given = [*given, "--endpoint", REMOTE]
    assert "(of a command: --allow-remote)" in told(given)
    assert "--allow-plain-http" in told([*given, "--allow-remote"])
    key = tmp_path / "key"
    key.write_text("sk-secret")
    key.chmod(0o644)
    refused = told([*given, "--allow-remote", "--allow-plain-http", "--key-file", str(key)])
    assert "chmod 600" in refused and "sk-secret" not in refused


@pytest.mark.parametrize("verb", ["demo", "bench graph", "calibrate answers", "locate", "replay"])
def test_a_way_to_no_server_is_refused(verb: str) -> None:
    without = VERBS[verb][: VERBS[verb].index("--served")]
    assert "--allow-remote" in told([*without, "--allow-remote"])
    if verb != "replay":  # which has the address from its parameters
        assert "--endpoint" in told([*without, "--endpoint", "http://127.0.0.1:9/v1"])
    if verb == "locate":
        assert "--locate-format" in told([*without, "--locate-format", "guess"])
