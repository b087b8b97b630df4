# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate temporal: its figures on sequences whose figures are known, and one small run."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.datasets.roadworld.truth import QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.evaluation.temporal.baselines import one_hot, with_lead
from vlm_perception.evaluation.temporal.flicker import (
    Change,
    Flags,
    changes,
    exponential_average,
    onset,
    steadiness,
    with_hysteresis,
)
from vlm_perception.evaluation.temporal.keyframe_gate import (
    Answers,
    Event,
    GateFigures,
    against_truth,
    attend,
    events,
    found_at,
    judge,
    key_frames,
    recalled,
)
from vlm_perception.evaluation.temporal.sequences import Recording, likeliest
from vlm_perception.perception.reasoning.keyframes import KeyframeSettings
from vlm_perception.perception.vision.temporal_state import TrainingFreeAttention

LIGHT = list(QUESTIONS).index("traffic_light")
RED = QUESTIONS["traffic_light"][1].index("red")


def flags(text: str) -> Flags:
    """One label, [T], from a text of 0 and 1."""
    return np.array([letter == "1" for letter in text])


def test_changes_and_their_stretches() -> None:
    assert list(changes(flags("0011100"))) == [Change(0, 2, 5, True), Change(2, 5, 7, False)]
    assert list(changes(flags("1111"))) == []


@pytest.mark.parametrize(
    ("reading", "at"),
    [
        ("00000111111", 5),
        ("00011111111", 3),  # seen before it is true
        ("00000001111", 7),
        ("00000101111", 7),  # a blip that is taken back is no finding
        ("01000011111", 6),  # nor is one before
        ("00000110110", None),
        ("00000000000", None),
        ("11111111111", 0),
    ],
)
def test_onset(reading: str, at: int | None) -> None:
    assert onset(flags(reading), Change(0, 5, 11, True)) == at


def judged(reading: str, truth: str, plain: str) -> tuple[int, float, float, float]:
    one = steadiness([flags(reading)[:, None]], [flags(truth)[:, None]], [flags(plain)[:, None]])
    return one.flips, one.accuracy, one.change_recall, one.delay_p95


def test_steadiness_of_known_readings() -> None:
    truth = "000000" + "111111" + "000000"
    plain = "010000" + "101111" + "010000"
    assert judged(truth, truth, plain)[:3] == (0, 1.0, 1.0)
    assert judged(plain, truth, plain) == (6, 15 / 18, 1.0, 0.0)
    # A frozen reading never flips, and that is all it can do: it misses both changes.
    flips, _, recall, delay = judged("0" * 18, truth, plain)
    assert (flips, recall) == (0, 0.5)
    assert delay > 3
    # Two ticks late at both ends.
    late = "00000000" + "111111" + "0000"
    assert judged(late, truth, truth) == (0, 14 / 18, 1.0, 2.0)


def test_the_baselines() -> None:
    odds = np.array([[-1.0], [3.0], [-0.2], [0.2], [-0.6]], np.float32)
    np.testing.assert_array_equal(exponential_average(odds, 1.0), odds)
    np.testing.assert_allclose(
        exponential_average(odds, 0.5)[:, 0], [-1.0, 1.0, 0.4, 0.3, -0.15], atol=1e-6
    )
    np.testing.assert_array_equal(with_hysteresis(odds, 0.0), odds >= 0)
    assert with_hysteresis(odds, 0.5)[:, 0].tolist() == [False, True, True, True, False]


def recording(light: str, said: str) -> Recording:
    """A drive in which only the light changes: R for red, - for none."""
    ticks = len(light)
    truths = np.zeros((ticks, len(QUESTIONS)), np.int64)
    answers = truths.copy()
    truths[:, LIGHT] = [RED * (letter == "R") for letter in light]
    answers[:, LIGHT] = [RED * (letter == "R") for letter in said]
    angle = np.cumsum([0.0, *(1.2 * (a != b) for a, b in pairwise(said))])
    pooled = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    shares = np.zeros((ticks, len(LABELS)), np.float32)
    sure = one_hot(answers).astype(np.float32)
    return Recording(pooled, sure, truths, shares, np.full((ticks, 3), 15.0, np.float32))


def test_events_begin_last_and_are_found() -> None:
    one = recording("RR---RRRRRR---RR---", "-" * 19)
    assert events([one]) == [Event("light turns red", 0, 5, 11)]
    said = recording("-----RRRRRR---", "-----R--RRR---").answers
    assert found_at(said, Event("light turns red", 0, 5, 11)) == 9
    assert found_at(said, Event("light turns red", 0, 5, 11), ticks=1) == 5
    assert found_at(np.zeros_like(said), Event("light turns red", 0, 5, 11)) is None


def test_a_gate_is_judged_by_what_it_saves_and_what_it_misses() -> None:
    light = "-" * 40 + "R" * 10 + "-" * 10
    one = recording(light, light)
    happened = events([one])
    states = attend(one, TrainingFreeAttention())
    no_tags = np.zeros((60, len(LABELS)), np.bool_)
    chosen = key_frames(states, no_tags, LABELS, KeyframeSettings(max_age=100.0))
    assert np.flatnonzero(chosen).tolist() == [0, 40, 50]

    def answers(at: Flags) -> Answers:
        return likeliest(recalled(one, states, at))

    def judged(at: Flags) -> GateFigures:
        return judge([one], [at], [answers(at)], [answers(np.ones(60, np.bool_))], happened)

    figures = judged(chosen)
    assert figures.analyses_saved == pytest.approx(57 / 60)
    assert (figures.event_recall, figures.accuracy_loss) == (1.0, 0.0)
    frozen = judged(np.arange(60) == 0)
    assert frozen.event_recall == frozen.event_recall_any_tick == 0.0
    assert frozen.accuracy_loss == pytest.approx(100 * 10 / 60 / len(QUESTIONS))
    late = judged(np.isin(np.arange(60), (0, 43, 53)))
    assert (late.event_recall, late.delay_ticks_p50) == (1.0, 3.0)


def test_hysteresis_of_answers() -> None:
    lead = np.tile(one_hot(np.zeros((5, len(QUESTIONS)), np.int64)), 1).astype(np.float32)
    first = slice(0, len(QUESTIONS["time_of_day"][1]))
    lead[:, first] = [[0.6, 0.4, 0], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [1, 0, 0]]
    assert with_lead(lead, 0.0)[:, 0].tolist() == [0, 1, 1, 0, 0]
    assert with_lead(lead, 0.3)[:, 0].tolist() == [0, 0, 1, 1, 0]


def test_truth_by_distance() -> None:
    one = recording("-" * 5 + "R" * 10, "-" * 9 + "R" * 6)
    one.distances[:, 0] = np.linspace(24.0, 8.0, 15)
    rows = {row.event: row for row in against_truth([one], [one.answers], events([one]))}
    light = rows["light turns red"]
    assert (light.events, light.recall) == (1, 1.0)
    assert light.delay_s_p50 == pytest.approx(0.5)
    assert light.by_distance["below 10 m"] == 1.0
    assert 0.0 < light.by_distance["10 to 20 m"] < 1.0
    assert math.isnan(light.by_distance["from 20 m"])


@pytest.mark.slow
def test_a_small_run_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    command = ["evaluate", "temporal", "--drives", "1", "--scenes", "1", "--seconds", "1.5"]
    paths = ["--out", str(tmp_path), "--json", str(tmp_path / "temporal.json")]
    result = CliRunner().invoke(app, command + paths)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "temporal.json").read_text())
    assert 0.0 < figures["analyses_saved"] < 1.0
    assert figures["flip_reduction"]["frozen"] == 1.0
    assert {"accuracy_loss", "event_recall", "event_recall_truth"} <= set(figures)
    ways = {"per_frame", "cross_attention", "ema", "hysteresis"}
    for key in ("flip_reduction", "added_delay_ticks_p50", "added_delay_ticks_p95", "accuracy"):
        assert ways <= set(figures[key])
        assert ways <= set(figures["answers"][key])
    assert figures["answers"]["flip_reduction"]["frozen"] == 1.0
    kept = sorted(tmp_path.rglob("*.npz"))
    times = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 2
    with np.load(kept[0]) as stored:
        assert stored["pooled"].shape == (15, 192)
        assert stored["truths"].shape == (15, len(QUESTIONS))
        assert (likeliest(stored["probabilities"]) == stored["truths"]).mean() > 0.5
    again = CliRunner().invoke(app, command + paths)
    assert again.exit_code == 0, again.output
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert json.loads((tmp_path / "temporal.json").read_text()) == figures


def test_another_bundle_is_refused(siglip_bundle: object, tmp_path: Path) -> None:
    path = str(siglip_bundle.path)  # type: ignore[attr-defined]
    result = CliRunner().invoke(
        app, ["evaluate", "temporal", "--bundle", path, "--out", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "not a road-world bundle" in result.output
