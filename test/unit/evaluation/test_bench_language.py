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

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.evaluation.bench import interference
from vlm_perception.evaluation.bench import language as bench
from vlm_perception.evaluation.bench.graph_figures import BenchError
from vlm_perception.evaluation.bench.interference import Phase
from vlm_perception.evaluation.bench.language import SceneTimes, run, summarise


def test_one_more_question_is_set_against_a_prefill_and_one_answer() -> None:
    calm = SceneTimes(prefill=8.0, one_question=2.0, questions=9.0, first_token=1.0, caption=20.0)
    slow = SceneTimes(
        prefill=80.0, one_question=20.0, questions=90.0, first_token=9.0, caption=99.0
    )
    figures = summarise([calm, slow, calm], questions=8)
    assert figures.extra_question_ms == pytest.approx(1000.0)
    assert figures.extra_question_cost_share == pytest.approx(0.1)
    assert figures.full_analysis_ms == pytest.approx(37_000.0)
    assert figures.time_to_first_token_ms == pytest.approx(9000.0)


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


def test_a_bundle_with_one_question_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    single = bundle.manifest.model_copy(update={"questions": bundle.manifest.questions[:1]})
    monkeypatch.setattr(
        bench.ModelBundle, "load", lambda name: ModelBundle(bundle.path, manifest=single)
    )
    with pytest.raises(VlmPerceptionError, match="fewer than two questions"):
        run("roadworld-nano", scenes=1, threads=1, pairs=0, seconds=2.0)


def phase(encoder_ms: float, analyses: int) -> Phase:
    """Ten seconds at 30 Hz in which one frame in ten took five times as long."""
    times = [encoder_ms * (5 if index % 10 == 0 else 1) for index in range(300)]
    return Phase(10.0, times, reasonings=100, analyses_ms=[20.0] * analyses)


def test_the_encoder_is_compared_within_each_pair() -> None:
    # The machine slows down meanwhile: that must not look like the language node's doing.
    idle = [phase(2.0, 0), phase(4.0, 0), phase(8.0, 0)]
    busy = [phase(2.2, 90), phase(4.2, 90), phase(8.0, 90)]
    found = interference.summarise(idle, busy, [30.0, 40.0, 50.0])
    assert [pair.ratio for pair in found.pairs] == pytest.approx([1.1, 1.05, 1.0])
    assert found.pairs[0].idle_ms == pytest.approx(10.0)
    assert found.ratio == pytest.approx(1.05)
    assert (found.encoded_hz, found.language_hz) == pytest.approx((30.0, 10.0))
    assert (found.analyses_hz, found.analysis_ms) == pytest.approx((9.0, 20.0))
    assert found.ask_ms["p50"] == pytest.approx(40.0)
    few = Phase(10.0, [1.0] * 5, reasonings=0, analyses_ms=[])
    with pytest.raises(BenchError, match="only 5 frames"):
        interference.summarise([few], [few], [30.0])
    with pytest.raises(BenchError, match="no full analysis"):
        interference.summarise([phase(2.0, 0)], [phase(2.0, 0)], [30.0])


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
        seconds=2.0,
        video=str(video),
    )
    found = report.figures
    assert found is not None
    (pair,) = found["encoder_p95_pairs_ms"]
    assert found["encoder_p95_ratio_busy_idle"] == pytest.approx(pair["busy"] / pair["idle"], 1e-2)
    assert found["analyses_hz"] == found["language_hz"] > 0, "not every tick was analysed"
    assert found["ask_ms"]["p95"] >= found["ask_ms"]["p50"] > 0
