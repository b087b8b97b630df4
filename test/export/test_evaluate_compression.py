# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The cases of `evaluate compression` are made once, compared fairly, and counted right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.checkpoints import make_checkpoint, write_spec
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.checkpoints.bundle_yaml import load_spec
from vlm_perception.deploy.compression.precision_config import read_config
from vlm_perception.deploy.export.export import export_bundle
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.cached_export import exported
from vlm_perception.evaluation.compression import cases, evaluate
from vlm_perception.evaluation.compression.cases import Case
from vlm_perception.evaluation.compression.evaluate import (
    CompressionRow,
    same_answers,
    same_captions,
)
from vlm_perception.evaluation.tasks.roadworld import Answers

KEEP = "0.5@0,1"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and the words of the road world."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("student") / "checkpoint")
    questions = [
        {"name": name, "question": question, "choices": list(choices)}
        for name, (question, choices) in QUESTIONS.items()
    ]
    vocabulary = {"labels": [{"label": label} for label in LABELS], "templates": ["a {label}"]}
    write_spec(checkpoint, vocabulary=vocabulary, questions=questions)
    return checkpoint


@pytest.fixture(scope="module")
def dense(student: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return export_bundle(student, tmp_path_factory.mktemp("dense") / "bundle")


@pytest.fixture(scope="module")
def pruned(student: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """In INT8, with 36 patches and the fused token."""
    options = ExportOptions(keep=KEEP, precision="int8-mixed", calibration=photos, validate=False)
    return export_bundle(student, tmp_path_factory.mktemp("pruned") / "bundle", options)


def test_the_cases_differ_in_one_thing_each(
    student: Path,
    dense: ModelBundle,
    pruned: ModelBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Path, ExportOptions]] = []

    def record(checkpoint: Path, path: Path, options: ExportOptions) -> ModelBundle:
        asked.append((checkpoint, options))
        return pruned if options.lossy else dense

    monkeypatch.setattr(cases, "exported", record)
    monkeypatch.setattr(cases, "CALIBRATION_IMAGES", 1)
    made = cases.make_cases(student, [KEEP], [0.5], tmp_path)
    assert [case.name for case in made] == [
        "dense", "int8", f"pruned {KEEP}", f"random-k {KEEP}", f"low-resolution {KEEP}",
        "heads 0.5", "int4-decoder",
    ]  # fmt: skip
    options = [each for _, each in asked]
    assert [each.keep for each in options] == [None, None, KEEP, KEEP, None, None, None]
    assert [each.random_tokens for each in options] == [False] * 3 + [True] + [False] * 3
    assert [each.heads for each in options] == [1.0] * 5 + [0.5, 1.0]
    assert not any(each.lossy for each in options[:1])
    assert {each.precision for each in options[1:]} == {"int8-mixed"}
    plan = options[-1].precision_config
    assert plan is not None
    assert read_config(plan).decoder == "int4-weights"
    smaller = load_spec(asked[4][0]).geometry
    assert smaller is not None
    width, height = smaller.size
    assert width // 4 * (height // 4) <= pruned.manifest.vision.tokens == 37
    assert abs(width / height - 16 / 9) < 0.4


def test_every_case_is_evaluated_and_timed(
    dense: ModelBundle, pruned: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Case("dense", dense), Case("int8", dense), Case("pruned", pruned, KEEP)]
    monkeypatch.setattr(evaluate, "make_cases", lambda *arguments: cases)
    path = tmp_path / "drift.json"
    report = evaluate.run(Path(), [KEEP], [], tmp_path, scenes=3, timed=1)
    assert report.show(Console(quiet=True), path) == 0
    content = json.loads(path.read_text())
    rows = [CompressionRow(**row) for row in content["rows"]]
    assert [(row.case, row.reference) for row in rows] == [
        ("dense", "dense"),
        ("int8", "dense"),
        ("pruned", "int8"),
    ]
    same, fewer = rows[0], rows[2]
    assert same.cosine_min == pytest.approx(1.0, abs=1e-5)
    assert (same.macro_ap_loss, same.decoder_retention) == (0.0, 1.0)
    assert (same.same_answers, same.same_captions) == (1.0, 1.0)
    assert (same.tokens, fewer.tokens) == (144, 37)
    assert fewer.cosine_min < 0.99
    assert fewer.same_captions < 1.0
    assert min(fewer.vision_ms, fewer.prefill_ms, fewer.decode_ms) > 0
    assert fewer.analysis_ms > fewer.prefill_ms + fewer.decode_ms
    assert content["scenes"] == 3
    assert fewer.setting == KEEP


def test_a_bundle_is_made_again_only_when_it_would_come_out_other(
    tmp_path: Path,
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", language=None)
    first = exported(checkpoint, tmp_path / "bundle", ExportOptions())
    made = (first.path / "manifest.yaml").stat().st_mtime_ns
    again = exported(checkpoint, tmp_path / "bundle", ExportOptions())
    assert (again.path / "manifest.yaml").stat().st_mtime_ns == made
    write_spec(checkpoint, vocabulary={"labels": [{"label": "boat"}], "templates": ["{label}"]})
    other = exported(checkpoint, tmp_path / "bundle", ExportOptions())
    assert other.digest != first.digest


def test_agreement_counts_answers_and_words() -> None:
    reference = Answers(
        attributes=[{"weather": "rain", "wet": "yes"}, {"weather": "fog", "wet": "no"}],
        captions=["a red car", "a bus"],
    )
    ours = dataclasses.replace(
        reference,
        attributes=[{"weather": "rain", "wet": "no"}, {"weather": "fog", "wet": "no"}],
        captions=["a blue car", "a bus"],
    )
    assert same_answers(ours, reference) == 0.75
    assert same_captions(ours, reference) == pytest.approx(np.mean([4 / 6, 1.0]))


def test_the_old_names_work_for_a_release_with_a_notice(tmp_path: Path) -> None:
    def output(*arguments: str) -> str:
        return " ".join(CliRunner().invoke(app, arguments).output.split())

    export = output("export", "--plan", "plan.yaml", "--accept-drift", "--out", str(tmp_path))
    assert "--plan is now --precision-config" in export
    assert "--accept-drift is now --accept-drop" in export
    missing = ("--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert "evaluate drift is now evaluate compression" in output("evaluate", "drift", *missing)
