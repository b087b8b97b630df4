# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Fitted temperatures make probabilities honest, and bad data is named in a sentence."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.streets import PROPERTY
from typer.testing import CliRunner

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.cli import app
from vlm_perception.datasets.answered_images import ANSWERS_FILE, AnsweredImages
from vlm_perception.datasets.roadworld.files.images import write_images
from vlm_perception.evaluation.chaos.testbed.bundle_server import MODEL, BundleServer, Manner
from vlm_perception.evaluation.tasks.answer_calibration import (
    CalibrationError,
    fit_temperature,
    judge,
    require_enough,
    scores_of_server,
)
from vlm_perception.evaluation.tasks.answer_figures import QuestionResults, question_figures
from vlm_perception.perception.language.served.model import ServedModel
from vlm_perception.perception.language.served.settings import SERVED, ServedSettings
from vlm_perception.perception.reasoning.questions import load_questions
from vlm_perception.perception.served.connection import Connection

WEATHER = QuestionSpec(name="weather", question="what weather", choices=("clear", "rain", "fog"))
WET = QuestionSpec(name="wet", question="is the road wet", choices=("no", "yes"))
RNG = np.random.default_rng(0)


def softmax(scores: Any, temperature: float = 1.0) -> Any:
    powers = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def figure(kind: str, probabilities: Any, truth: Any) -> float:
    results = QuestionResults("", probabilities, truth)
    return float(question_figures(results, np.ones((1, len(truth))))[kind][0])


def world(count: int, choices: int, temperature: float, seed: int) -> tuple[Any, Any]:
    """Scores whose probabilities at `temperature`, and at no other, are how often things happen."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3 * temperature, (count, choices))
    chances = softmax(scores, temperature).cumsum(axis=1)
    return scores, (rng.random((count, 1)) > chances).sum(axis=1).clip(0, choices - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_true_temperature_is_found_and_lowers_both_figures(temperature: float) -> None:
    scores, truth = world(4000, 3, temperature, 1)
    found = judge(scores, truth)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.nll[1] <= found.nll[0] + 1e-3
    assert found.ece[1] < 0.03
    if temperature != 1.0:
        assert found.nll[1] < 0.97 * found.nll[0]
        assert found.ece[1] < found.ece[0] / 2


@PROPERTY
@given(
    st.integers(1, 60), st.integers(2, 5), st.floats(0.05, 20.0), st.integers(0, 10_000), st.data()
)
def test_no_temperature_fits_better_than_the_fitted_one(
    count: int, choices: int, temperature: float, seed: int, data: st.DataObject
) -> None:
    scores, _ = world(count, choices, temperature, seed)
    truth = np.array(
        data.draw(st.lists(st.integers(0, choices - 1), min_size=count, max_size=count))
    )
    best = figure("nll", softmax(scores, fit_temperature(scores, truth)), truth)
    for other in (1.0, data.draw(st.floats(0.02, 50.0))):
        assert best <= figure("nll", softmax(scores, other), truth) + 1e-6


def test_the_error_is_how_far_confidence_is_from_accuracy() -> None:
    sure = np.tile((0.9, 0.1), (1500, 1))
    truth = (RNG.random(1500) < 0.4).astype(np.int64)
    assert figure("ece", sure, truth) == pytest.approx(0.9 - (truth == 0).mean(), abs=0.06)
    assert figure("ece", np.tile((1.0, 0.0), (30, 1)), np.zeros(30, np.int64)) == 0


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([{"wet": "yes"}] * 99, "answers 'wet' for 99 images; at least 100 are needed"),
        ([{}], "answers no question"),
        ([], "answers no question"),
    ],
)
def test_too_few_answers_are_refused(
    tmp_path: Path, answers: list[dict[str, str]], sentence: str
) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        require_enough(answered(tmp_path, answers))
    require_enough(answered(tmp_path, [{"wet": "yes"}] * 100))


def answered(folder: Path, answers: list[dict[str, str]]) -> AnsweredImages:
    Image.new("RGB", (32, 18)).save(folder / "a.png")
    lines = [json.dumps({"image": "a.png", "answers": each}) for each in answers]
    (folder / ANSWERS_FILE).write_text("\n".join(lines))
    return AnsweredImages(folder, [WET])


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_images(data, 5, (64, 36))
    lines = (data / ANSWERS_FILE).read_text().splitlines() * 25
    (data / ANSWERS_FILE).write_text("\n".join(lines))
    (data / "5000002.jpg").write_bytes((data / "5000002.jpg").read_bytes()[:300])
    command = ["calibrate", "answers", "--data", str(data), "--out", str(tmp_path / "q")]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert "1 images could not be read" in " ".join(made.output.split())
    assert "5000002.jpg" in "".join(made.output.split())
    (data / ANSWERS_FILE).write_text("\n".join(lines[:-1]))
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "99 images (25 more cannot be read)" in " ".join(refused.output.split())


@pytest.mark.slow
def test_the_road_world_is_calibrated_from_the_command_line(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "new" / "questions.yaml"
    write_images(data, 4, (64, 36))
    assert len((data / ANSWERS_FILE).read_text().splitlines()) == 4
    (data / "5000001.jpg").unlink()
    write_images(data, 5, (64, 36))
    lines = (data / ANSWERS_FILE).read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [f"{5000000 + i}.jpg" for i in range(5)]
    assert (data / "5000001.jpg").exists()
    command = ["calibrate", "answers", "--data", str(data), "--out", str(out)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert not out.exists()
    (data / ANSWERS_FILE).write_text("\n".join(lines * 20))
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    questions = load_questions(out)
    assert [q.temperature for q in questions] != [1.0] * len(questions)
    assert all(q.name in made.output for q in questions)


def test_a_server_is_asked_with_the_choices_in_turn() -> None:
    """So that no letter is the truth's more often than another."""
    bundle = ModelBundle.load("roadworld-nano")
    image = np.zeros((36, 64, 3), np.uint8)
    with BundleServer(bundle) as server, closing(served_by(server)) as served:
        score = scores_of_server(served, [WEATHER])
        before = len(server.bodies)
        scores = [score(image) for _ in range(len(WEATHER.choices))]
        texts = [body["messages"][0]["content"][1]["text"] for body in server.bodies[before:]]
    first = [text.splitlines()[1].removeprefix("A. ") for text in texts]
    assert sorted(first) == sorted(WEATHER.choices)
    assert all(each.shape == (3,) and np.exp(each).sum() <= 1.0 + 1e-5 for each in scores)
    with (
        BundleServer(bundle, Manner(log_probabilities=False)) as server,
        closing(served_by(server)) as dumb,
        pytest.raises(CalibrationError, match="log-probabilities"),
    ):
        scores_of_server(dumb, [WEATHER])


def served_by(server: BundleServer) -> ServedModel:
    settings = ServedSettings(language=SERVED, endpoint=server.url, model=MODEL)
    return ServedModel(Connection(settings.checked_endpoint()), settings)
