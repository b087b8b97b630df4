# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Bags are shown in rerun; without it one sentence says what is missing."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.recordings import jpeg, write
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app

FRAMES = 6
needs_rerun = pytest.mark.skipif(
    importlib.util.find_spec("rerun") is None, reason="rerun is not installed"
)


def view(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["view", *map(str, arguments)])
    return result.exit_code, result.output


@needs_rerun
def test_a_bag_becomes_a_file_for_rerun(siglip_bundle: ModelBundle, tmp_path: Path) -> None:
    from rerun.chunk import RrdReader  # noqa: PLC0415

    bag = write(tmp_path / "bag", [jpeg(index) for index in range(FRAMES)])
    out, file = tmp_path / "out", tmp_path / "scene.rrd"
    arguments = ["replay", str(bag), "--bundle", str(siglip_bundle.path), "--out", str(out)]
    assert CliRunner().invoke(app, [*arguments, "--no-overlay"]).exit_code == 0
    code, text = view(out, "--save", file)
    assert code == 0, text
    rows: Counter[str] = Counter()
    for chunk in RrdReader(file).stream().to_chunks():
        rows[chunk.entity_path] += chunk.num_rows
    assert rows["/camera/image"] == rows["/camera/regions"] == FRAMES
    assert rows["/drift"] >= rows["/keyframes"] - 1 >= 1, "one row of /keyframes is its style"
    assert any(path.startswith("/answers/") for path in rows)


@needs_rerun
def test_a_bag_without_scenes_is_refused(tmp_path: Path) -> None:
    code, text = view(write(tmp_path / "bag", [jpeg(0)]), "--save", tmp_path / "scene.rrd")
    assert code == 2 and "contains no scenes" in text


@needs_rerun
def test_a_viewer_that_cannot_start_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write(tmp_path / "bag", [jpeg(0)])
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, text = view(bag)
    assert code == 1 and "--save FILE" in text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, text = view(bag, "--web", "--web-port", str(port))
    assert code == 1 and f"port {port} is unavailable" in text


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vlm_perception.viewer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rerun", None)
    code, text = view(tmp_path)
    assert code == 2 and "pip install rerun-sdk" in text
