# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Key frames of a recording are those of the bundle's gate, however often a run is interrupted."""

from __future__ import annotations

import json
import shutil

import cv2
import pytest
import yaml
from support.edited_bundle import edited
from support.recordings import START_NS, STEP_NS, write
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.curation.recipe import read_recipe
from vlm_perception.curation.sources import key_frames
from vlm_perception.curation.sources.listing import tasks
from vlm_perception.curation.sources.raw import do_raw
from vlm_perception.datasets.roadworld.streets import Streets


@pytest.fixture
def folder(tmp_path):
    """A drive of 2.5 s whose scene changes after 0.6 s; one of its images is broken."""
    scenes = [street.image for street in Streets(range(5_000_000, 5_000_002), (320, 240))]
    first, second = (
        cv2.imencode(".jpg", cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))[1].tobytes()
        for scene in scenes
    )
    files = [first] * 6 + [second] * 19
    files[3] = files[3][:500]
    write(tmp_path / "drive", files)
    source = {"kind": "recording", "path": "../drive", "key_frames": "roadworld-nano"}
    made = tmp_path / "set"
    made.mkdir()
    (made / "recipe.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    return made


def taken(folder):
    (folder / ".unfinished" / "stage").mkdir(parents=True)
    (task,) = tasks(folder, read_recipe(folder))
    return lambda position: do_raw(task, folder / ".unfinished", position)


def run(folder):
    result = CliRunner().invoke(app, ["curate", "run", str(folder), "--to", "00_raw"])
    return result.exit_code, " ".join(result.output.split())


def test_key_frames_are_the_first_the_changed_and_the_oldest(folder):
    assert run(folder)[0] == 0
    kept = [json.loads(line) for line in (folder / "00_raw" / "kept.jsonl").open()]
    at = {(each["stamp_ns"] - START_NS) // STEP_NS: each["trigger"] for each in kept}
    assert next(iter(at.items())) == (0, "first")
    changed = [place for place, trigger in at.items() if trigger == "drift"]
    assert changed
    assert 6 <= min(changed) <= 8
    places = list(at)
    # At the latest after a second.
    assert max(b - a for a, b in zip(places, [*places[1:], 25], strict=True)) <= 10
    assert len(places) < 10
    (failed,) = [json.loads(line) for line in (folder / "00_raw" / "failed.jsonl").open()]
    assert failed["path"] == "drive#3"


def test_an_interrupted_task_goes_on_without_looking_again(folder, monkeypatch):
    go_on = taken(folder)
    whole = list(go_on(None))
    monkeypatch.setattr(key_frames, "_Gate", None)
    for done in range(len(whole)):
        rest = list(go_on(json.loads(json.dumps(whole[done][1]))))
        assert [record for record, _ in rest] == [record for record, _ in whole[done + 1 :]]


def test_a_bundle_that_was_replaced_makes_stages_stale(folder):
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("roadworld-nano", "../bundle"))
    bundle, own = folder.parent / "bundle", ModelBundle.load("roadworld-nano").path
    bundle.symlink_to(own)
    assert run(folder)[0] == 0
    bundle.unlink()
    # What is not here has not changed.
    assert run(folder)[0] == 0
    shutil.copytree(own, bundle)
    edited(bundle, lambda content: content.update(name="another"))
    code, output = run(folder)
    assert (code, "the bundle ../bundle is another one now" in output) == (2, True)


def test_key_frames_need_a_bundle_and_no_rate(folder):
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("roadworld-nano", "nowhere"))
    code, output = run(folder)
    assert (code, "nowhere" in output) == (2, True)
    recipe.write_text(text.replace("path:", "rate_hz: 2.0\n  path:"))
    code, output = run(folder)
    assert (code, "leave one of them out" in output) == (2, True)
