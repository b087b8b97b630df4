# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""bench language: what its figures mean, and that they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from vlm_perception.bundle import ModelBundle
from vlm_perception.evaluation import language as bench
from vlm_perception.evaluation.language import SceneTimes, bench_language, summarise


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


def test_the_figures_are_written(tmp_path: Path) -> None:
    path, console = tmp_path / "deep" / "language.json", Console(record=True, width=100)
    code = bench_language("roadworld-nano", scenes=1, threads=1, console=console, json_file=path)
    found = json.loads(path.read_text())
    assert code == (0 if found["valid"] else 1)
    assert found["questions"] == len(ModelBundle.load("roadworld-nano").manifest.questions)
    assert found["full_analysis_ms"] > found["time_to_first_token_ms"] > found["prefill_ms"] > 0
    assert {"extra_question_cost_share", "extra_question_ms"} <= found.keys()
    assert "one more question" in console.export_text()


def test_a_bundle_with_one_question_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    single = bundle.manifest.model_copy(update={"questions": bundle.manifest.questions[:1]})
    monkeypatch.setattr(
        bench.ModelBundle, "load", lambda name: ModelBundle(bundle.path, manifest=single)
    )
    with pytest.raises(ValueError, match="fewer than two questions"):
        bench_language("roadworld-nano", scenes=1, threads=1, console=Console())
