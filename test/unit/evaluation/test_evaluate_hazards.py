# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate hazards: the scenes are what they are said to be, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.truth import describe
from vlm_perception.evaluation.tasks.hazards import BANDS, staged


@pytest.mark.parametrize("label", ["pedestrian", "bicycle", "car"])
def test_one_stands_in_the_lane_at_its_distance_or_none(label: str) -> None:
    for seed in range(10):
        for band in BANDS:
            world = staged(seed, label, band)
            (only,) = (actor for actor in world.actors if actor.label == label)
            assert band[0] <= only.s <= band[1]
            assert abs(only.d - world.road.ego_offset) < world.road.lane_width / 2
        empty = staged(seed, label, None)
        truth = describe(empty, render(empty, 0.0, 160, 90))
        assert label not in {each.label for each in truth.objects}


@pytest.mark.slow
def test_the_command_tells_recall_and_false_alarms(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "hazards.json"
    arguments = ["evaluate", "hazards", "--scenes", "2", "--json", str(file)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())["rows"]
    assert {(row["hazard"], row["path"]) for row in rows} == {
        (hazard, path) for hazard in ("pedestrian", "bicycle", "car") for path in ("fast", "fused")
    }
    for fast, fused in zip(rows[::2], rows[1::2], strict=True):
        if fast["hazard"] == "car":
            assert fast["recall"]["5-10 m"] == 1.0, "nobody overlooks a car right ahead"
        assert all(fused["recall"][band] >= share for band, share in fast["recall"].items())
        assert fused["false_alarms"] >= fast["false_alarms"]


def test_a_bundle_without_the_labels_is_refused(siglip_bundle: object) -> None:
    path = str(getattr(siglip_bundle, "path", ""))
    result = CliRunner().invoke(app, ["evaluate", "hazards", "--bundle", path, "--scenes", "1"])
    assert result.exit_code == 2 and "road-world bundle" in result.output
