# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The cases of `evaluate drift` are made once, compared fairly, and counted right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import make_checkpoint, write_spec
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.deploy.options import ExportOptions
from vlm_perception.evaluation import drift, drift_cases
from vlm_perception.evaluation.drift import same_answers, same_captions
from vlm_perception.evaluation.exported import exported
from vlm_perception.evaluation.roadworld_nano import Answers

CASES = ["dense", "int8", "pruned", "random-k", "low-resolution", "heads", "int4-decoder"]


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


def test_every_case_sits_the_exam_and_is_timed(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_cases, "CALIBRATION_SIZE", (64, 36))
    path = tmp_path / "drift.json"
    rows = drift.evaluate_drift(
        student, ["0.5@0,1"], [0.5], tmp_path, scenes=4, timed=1, json_file=path
    )
    assert [row.case for row in rows] == CASES
    by_case = {row.case: row for row in rows}
    assert {row.case: row.reference for row in rows} == dict.fromkeys(CASES, "int8") | {
        "dense": "dense", "int8": "dense",
    }  # fmt: skip
    assert by_case["pruned"].tokens == by_case["random-k"].tokens == 37
    assert by_case["low-resolution"].tokens <= 37
    assert by_case["heads"].tokens == by_case["int8"].tokens == 144
    dense = by_case["dense"]
    assert dense.cosine_min == pytest.approx(1.0, abs=1e-5)
    assert (dense.macro_ap_loss, dense.same_answers, dense.same_captions) == (0.0, 1.0, 1.0)
    assert by_case["int4-decoder"].cosine_min == pytest.approx(by_case["int8"].cosine_min)
    assert by_case["int4-decoder"].decoder_mb < 0.7 * by_case["int8"].decoder_mb
    content = json.loads(path.read_text())
    assert content["scenes"] == 4
    assert [row["case"] for row in content["rows"]] == CASES
    assert content["rows"][2]["setting"] == "0.5@0,1"


def test_a_bundle_is_made_again_when_it_would_come_out_other(student: Path, tmp_path: Path) -> None:
    first = exported(student, tmp_path / "bundle", ExportOptions())
    made = (first.path / "manifest.yaml").stat().st_mtime_ns
    again = exported(student, tmp_path / "bundle", ExportOptions())
    assert (again.path / "manifest.yaml").stat().st_mtime_ns == made
    other = exported(student, tmp_path / "bundle", ExportOptions(geometry="checkpoint"))
    assert other.digest != first.digest
    (other.path / "vision.onnx").write_bytes(b"broken")
    mended = exported(student, tmp_path / "bundle", ExportOptions(geometry="checkpoint"))
    assert mended.digest == other.digest


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
