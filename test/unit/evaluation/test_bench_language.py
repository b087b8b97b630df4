# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""bench language: what its figures mean, and that they are written."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.evaluation.bench import interference
from vlm_perception.evaluation.bench import language as bench
from vlm_perception.evaluation.bench.graph_figures import BenchError
from vlm_perception.evaluation.bench.interference import Phase
from vlm_perception.evaluation.bench.language import SceneTimes, run, summarise
from vlm_perception.perception.language.analysis_cost import AnalysisCost

COST = AnalysisCost(
    question={}, tower_s=3.0, prefill_s=8.0, questions_s=9.0, prompt_s=1.0, token_s=0.5
)


def test_one_more_question_is_set_against_a_prefill_and_one_answer() -> None:
    calm, slow = (
        SceneTimes(8.0 * n, 3.0 * n, 2.0 * n, 9.0 * n, 1.0 * n, 20.0 * n, 12) for n in (1, 10)
    )
    figures = summarise([calm, slow, calm], questions=8, cost=COST)
    assert figures.extra_question_ms == pytest.approx(1000.0)
    assert figures.extra_question_cost_share == pytest.approx(0.1)
    assert figures.full_analysis_ms == pytest.approx(37_000.0)
    assert figures.time_to_first_token_ms == pytest.approx(9000.0)
    assert figures.token_ms == pytest.approx(500.0)
    assert (figures.tower_ms, figures.prefill_ms) == pytest.approx((3000.0, 5000.0))


@pytest.mark.slow
def test_the_figures_are_written(tmp_path: Path) -> None:
    path, console = tmp_path / "deep" / "language.json", Console(record=True, width=100)
    report = run("roadworld-nano", scenes=1, threads=1, pairs=0, seconds=2.0)
    code = report.show(console, path)
    found = json.loads(path.read_text())
    assert code == (0 if found["valid"] else 1)
    assert found["questions"] == len(ModelBundle.load("roadworld-nano").manifest.questions)
    assert found["full_analysis_ms"] > found["time_to_first_token_ms"] > found["prefill_ms"] > 0
    assert {"extra_question_cost_share", "extra_question_ms"} <= found.keys()
    assert "one more question" in console.export_text()
    assert "encoder_p95_ratio_busy_idle" not in found, "the graph was not measured"


@pytest.mark.parametrize(("made", "asked"), [("siglip_bundle", 0), ("own_bundle", 1)])
def test_any_bundle_is_measured(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made: str, asked: int
) -> None:
    """With a vision tower of its own, and with too few questions for the cost of one more."""
    whole: ModelBundle = request.getfixturevalue(made)
    manifest = whole.manifest
    few = manifest.model_copy(update={"questions": manifest.questions[:asked]})
    bundle = ModelBundle(whole.path, manifest=few)
    monkeypatch.setattr(bench.ModelBundle, "load", lambda name: bundle)
    figures = run("few", scenes=1, threads=1, pairs=0, seconds=None).figures
    assert figures is not None
    assert figures["extra_question_ms"] is None
    assert (figures["tower_ms"] > 0) == (made == "own_bundle")
    assert figures["full_analysis_ms"] > figures["token_ms"] > 0


def test_a_bundle_without_a_language_model_is_refused(
    siglip_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = siglip_bundle.manifest.model_copy(update={"language": None, "questions": ()})
    bundle = ModelBundle(siglip_bundle.path, manifest=alone)
    monkeypatch.setattr(bench.ModelBundle, "load", lambda name: bundle)
    with pytest.raises(BundleError, match="no language model"):
        run("tags", scenes=1, threads=1, pairs=1, seconds=None)


def phase(encoder_ms: float, analyses: int) -> Phase:
    """Ten seconds at 30 Hz in which one frame in ten took five times as long."""
    times = [encoder_ms * (5 if index % 10 == 0 else 1) for index in range(300)]
    return Phase(10.0, times, reasonings=100, analyses_ms=[20.0] * analyses)


def test_the_encoder_is_compared_within_each_pair() -> None:
    # The machine slows down meanwhile: that must not look like the language node's doing.
    idle = [phase(2.0, 0), phase(4.0, 0), phase(8.0, 0)]
    busy = [phase(2.2, 90), phase(4.2, 90), phase(8.0, 90)]
    found = interference.summarise(idle, busy, [30.0, 40.0, 50.0], {})
    assert [pair.ratio for pair in found.pairs] == pytest.approx([1.1, 1.05, 1.0])
    assert found.pairs[0].idle_ms == pytest.approx(10.0)
    assert found.ratio == pytest.approx(1.05)
    assert (found.encoder_hz, found.language_hz) == pytest.approx((30.0, 10.0))
    assert (found.analyses_hz, found.analysis_ms) == pytest.approx((9.0, 20.0))
    assert found.ask_ms["p50"] == pytest.approx(40.0)
    few = Phase(10.0, [1.0] * 5, reasonings=0, analyses_ms=[])
    with pytest.raises(BenchError, match="only 5 frames"):
        interference.summarise([few], [few], [30.0], {})
    with pytest.raises(BenchError, match="no full analysis"):
        interference.summarise([phase(2.0, 0)], [phase(2.0, 0)], [30.0], {})


def test_the_running_graph_is_measured(
    siglip_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interference, "LEAST_FRAMES", 1)
    monkeypatch.setattr(interference, "QUESTIONS", 3)
    video = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 36))
    rng = np.random.default_rng(0)
    for _ in range(30):
        writer.write(rng.integers(0, 256, (36, 64, 3), np.uint8))
    writer.release()
    report = run(
        str(siglip_bundle.path),
        scenes=1,
        threads=1,
        pairs=1,
        seconds=3.0,
        video=str(video),
    )
    found = report.figures
    assert found is not None
    (pair,) = found["encoder_p95_pairs_ms"]
    assert found["encoder_p95_ratio_busy_idle"] == pytest.approx(pair["busy"] / pair["idle"], 1e-2)
    assert found["analyses_hz"] == found["language_hz"] > 0, "not every tick was analysed"
    assert found["encoder_hz"] > 0 < found["encoder_idle_hz"]
    assert set(found["rss_mb"]) == {
        *("vision_encoder", "language_reasoner", "scene_fusion", "video_source")
    }
    assert min(found["rss_mb"].values()) > 10
    assert found["ask_ms"]["p95"] >= found["ask_ms"]["p50"] > 0
