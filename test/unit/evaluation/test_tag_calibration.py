# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""`calibrate tags`: recordings in, a bundle with thresholds of its own and a contact sheet out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec, VocabularySpec
from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.evaluation.tags.calibrate import with_cuts
from vlm_perception.evaluation.tags.contact_sheet import strip
from vlm_perception.evaluation.tags.site_images import Site, SiteImage, distinct
from vlm_perception.perception.vision.tag_thresholds import LEAST_IMAGES, Cut, Verdict


@pytest.mark.slow
def test_the_verb_writes_a_bundle_and_a_sheet(tmp_path: Path) -> None:
    images, out, figures = tmp_path / "site", tmp_path / "here", tmp_path / "figures.json"
    write_images(images, LEAST_IMAGES + 1, (64, 36))
    broken = next(images.glob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:300])
    command = ["calibrate", "tags", "--images", str(images), "--out", str(out)]
    made = CliRunner().invoke(app, [*command, "--json", str(figures)])
    assert made.exit_code == 0, made.output
    told = " ".join(made.output.split())
    assert "1 images could not be read" in told and broken.name in "".join(made.output.split())
    old, new = ModelBundle.load("roadworld-nano"), ModelBundle.load(out)
    assert new.digest != old.digest and new.manifest.files == old.manifest.files
    page = (tmp_path / "here.html").read_text()
    content = json.loads(figures.read_text())
    kinds = [each["verdict"] for each in content["labels"].values()]
    for kind in set(kinds):
        assert f"{kind}: {kinds.count(kind)}" in page
    assert content["images"] == LEAST_IMAGES and content["unreadable"] == 1
    for spec in new.manifest.vocabulary.labels:
        assert spec.label in page
        assert spec.threshold == content["labels"][spec.label]["threshold"]
        if content["labels"][spec.label]["verdict"] != Verdict.FIRES.value:
            assert content["labels"][spec.label]["occurs"] == 0
    # Of so few images, and a student of larger ones: a label that is on every third is still found.
    assert content["labels"]["night"]["verdict"] == Verdict.FIRES.value
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    next(file for file in images.glob("*.jpg") if file != broken).unlink()
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert f"give {LEAST_IMAGES - 1} different images (1 could not be read" in " ".join(
        refused.output.split()
    )
    assert ModelBundle.load(out).digest == new.digest


def test_a_sheet_names_where_a_label_fires() -> None:
    """On nearly all images of one recording it may be the place that is seen."""
    pooled = np.ones(2, np.float32)
    names = ["yard.mp4"] * 3 + ["street.mp4"] * 2
    site = Site([SiteImage(name == names[-1], name, "1.0 s", pooled, b"") for name in names])
    scores = np.array([0.1, 0.5, -1.0, 0.9, -0.8])
    fires = strip("car", scores, Cut(0.0, Verdict.FIRES, ""), site)
    assert fires.recordings == [("yard.mp4", 2, 3), ("street.mp4", 1, 2)]
    assert [heading for heading, _ in fires.groups] == [
        "highest above the threshold",
        "just below the threshold",
    ]
    never = strip("car", scores, Cut(2.0, Verdict.NEVER, ""), site)
    assert never.recordings == [] and [heading for heading, _ in never.groups] == ["highest of all"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "nowhere"], "'nowhere' does not exist"),
        (["--images", "."], "contains no images"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    out = str(tmp_path / "out")
    refused = CliRunner().invoke(app, ["calibrate", "tags", *arguments, "--out", out])
    assert refused.exit_code == 2
    assert sentence in " ".join(refused.output.split())


def test_thresholds_of_regions_move_along_with_those_of_tags() -> None:
    labels = (LabelSpec(label="a"), LabelSpec(label="b", threshold=0.2, region_threshold=0.5))
    vocabulary = VocabularySpec(labels=labels, threshold=0.5, region_threshold=0.5)
    cuts = [Cut(-9.0, Verdict.FIRES), Cut(math.inf, Verdict.UNKNOWN)]
    rare, never = with_cuts(vocabulary, cuts).labels
    assert rare.threshold == pytest.approx(1.0 / (1.0 + math.exp(9.0)), rel=1e-4)
    assert rare.region_threshold == rare.threshold
    assert never.threshold == never.region_threshold == 1.0
    (step,) = with_cuts(
        vocabulary.model_copy(update={"labels": labels[1:]}), [Cut(0.0, Verdict.FIRES)]
    ).labels
    assert step.threshold == pytest.approx(0.5)
    # From 0.2 to 0.5 are odds of four to one.
    assert step.region_threshold == pytest.approx(0.8, abs=1e-5)


def test_images_that_show_the_same_are_left_out() -> None:
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(50, 16)).astype(np.float32)
    pooled[10:30] = pooled[9] + 1e-3 * rng.normal(size=(20, 16))
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert distinct(pooled) == [*range(10), *range(30, 50)]
