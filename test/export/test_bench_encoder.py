# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the encoder: its ratios, what it calls valid, and what it makes to measure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner

from vlm_perception.cli import app
from vlm_perception.deploy.export.options import ExportOptions
from vlm_perception.evaluation.bench import encoder, encoder_cases
from vlm_perception.evaluation.bench.encoder import BF16, BUNDLE, FP32, ORT_FP32
from vlm_perception.evaluation.bench.encoder_cases import CASES, Aim, Case, Contestants, Workshop
from vlm_perception.evaluation.machine_load import LoadMeter, Reading, read_processor
from vlm_perception.modeling.token_pruning import parse_schedule

TINY = CLIPConfig(
    vision_config={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    },
    text_config={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    projection_dim=32,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two rounds of one run, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(encoder, "ROUNDS", 2)
    monkeypatch.setattr(encoder, "RUNS", 1)
    monkeypatch.setattr("vlm_perception.evaluation.machine_load.BEFORE_S", 0.01)


@pytest.fixture(scope="module")
def contestants(tmp_path_factory: pytest.TempPathFactory) -> Contestants:
    """Tiny ones, through the same export as the true ones."""
    case = Case("vit-b16/tiny", {"aspect": "16:9"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "calibration_images", lambda _: None)
        return Workshop(tmp_path_factory.mktemp("workshop"), TINY).prepare(case)


def test_a_case_is_made_once_of_a_true_checkpoint(
    contestants: Contestants, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = contestants.dense.manifest.image
    assert (image.width, image.height) == (64, 64)
    band = contestants.bundle.manifest.image
    assert (band.columns, band.rows) == (4, 3)
    assert isinstance(CLIPModel.from_pretrained(contestants.checkpoint), CLIPModel)
    monkeypatch.setattr(encoder_cases, "export_bundle", None)
    workshop = Workshop(contestants.checkpoint.parents[2], TINY)
    monkeypatch.setattr(Workshop, "calibration_images", lambda _: None)
    again = workshop.prepare(Case("vit-b16/tiny", {"aspect": "16:9"}))
    assert again.bundle.digest == contestants.bundle.digest


def test_all_four_see_the_same_image(contestants: Contestants) -> None:
    """What is timed is the same work: the dense graph and transformers give the same embedding."""
    runs = encoder.prepare_runs(contestants, "onnxruntime", threads=1)
    assert list(runs) == [FP32, BF16, ORT_FP32, BUNDLE]
    theirs = runs[FP32]().pooler_output.numpy()
    theirs /= np.linalg.norm(theirs)
    np.testing.assert_allclose(runs[ORT_FP32]()["pooled"], theirs, atol=1e-3)
    half = runs[BF16]().pooler_output.float().numpy()
    assert float((half / np.linalg.norm(half) * theirs).sum()) > 0.99
    assert runs[BUNDLE]()["pooled"].shape == theirs.shape


def test_the_whole_benchmark_gives_its_rows(
    contestants: Contestants,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    case = Case("vit-b16/tiny", aim=Aim(2.0, 3.0, fps=30.0))
    monkeypatch.setattr(encoder, "select", lambda names: [case])
    monkeypatch.setattr(Workshop, "prepare", lambda self, case: contestants)
    file, console = tmp_path / "deep" / "encoder.json", Console(record=True, width=160)
    code = encoder.run([], threads=1).show(console, file)
    figures = json.loads(file.read_text())
    assert figures["valid"] == (code == 0)
    assert set(figures["load"]) == {
        "others_before_percent",
        "others_during_percent",
        "most_percent",
    }
    [row] = figures["rows"]
    assert (row["case"], row["threads"]) == ("vit-b16/tiny", 1)
    assert row["engine"].split()[0] in {"onnxruntime", "openvino"}
    assert row["fps"] == pytest.approx(1e3 / row["p50_ms"], rel=0.01)
    for key in ("ratio_vs_ort_fp32", "ratio_vs_transformers_best"):
        assert 0 < row[f"{key}_min"] <= row[key] <= row[f"{key}_max"]
    assert row["transformers_best"] in (FP32, BF16)
    [memory] = figures["memory"]
    assert 20 < memory["bundle_peak_rss_mb"] < 1000
    assert 20 < memory["bundle_ort_peak_rss_mb"] < 1000
    text = console.export_text()
    for shown in (
        "vit-b16/tiny",
        "target 2x",
        "target 3x",
        "target 30",
        "valid: other processes took",
    ):
        assert shown in text


def test_ratios_are_taken_round_by_round() -> None:
    times = {
        ORT_FP32: [[30, 20, 40], [60, 60, 60], [9, 10, 11]],
        BUNDLE: [[10, 10, 10], [15, 10, 20], [4, 5, 6]],
    }
    found = encoder.ratio(times, ORT_FP32)
    assert (found.value, found.least, found.largest) == (3.0, 2.0, 4.0)


def test_contestants_take_turns(quick: None) -> None:
    log: list[str] = []
    ticks = iter(range(100))
    runs = {name: lambda name=name: log.append(name) for name in ("a", "b")}
    times = encoder.take_turns(runs, clock=lambda: next(ticks) / 1e3)
    assert log == ["a", "a", "b", "b"] * 2, "an untimed run and a timed one each"
    assert times == {"a": [[pytest.approx(1)]] * 2, "b": [[pytest.approx(1)]] * 2}


@pytest.mark.parametrize(
    ("before", "during", "quiet"),
    # Idle, all and own seconds in 2 s of two cores before, and in 10 s during the measurement.
    [
        ((3.9, 4.0, 0.0), (5.0, 20.0, 14.5), True),
        ((3.0, 4.0, 0.0), (5.0, 20.0, 15.0), False),
        ((4.0, 4.0, 0.0), (5.0, 20.0, 10.0), False),
    ],
)
def test_a_loaded_machine_is_told_from_a_quiet_one(
    before: Reading, during: Reading, quiet: bool
) -> None:
    second = tuple(map(sum, zip((7.0, 9.0, 1.0), before, strict=True)))
    third = tuple(map(sum, zip(second, during, strict=True)))
    readings = iter([(7.0, 9.0, 1.0), second, third])
    load = LoadMeter(lambda: next(readings), lambda _: None).load()
    assert load.quiet == quiet
    assert load.before == pytest.approx(100 * (before[1] - before[0]) / before[1])
    own_share = (during[1] - during[0] - during[2]) / during[1]
    assert load.during == pytest.approx(100 * own_share)


def test_own_work_is_no_load_of_others() -> None:
    """The true /proc/stat: a second of work in this process and a child adds to neither."""
    start = read_processor()
    end_at = time.process_time() + 0.3
    while time.process_time() < end_at:
        pass
    subprocess.run([sys.executable, "-c", "sum(range(30_000_000))"], check=True)
    after = read_processor()
    assert after[2] - start[2] >= 0.4


def test_every_case_is_something_that_can_be_exported(tmp_path: Path) -> None:
    options = {case.name: ExportOptions(**case.options, calibration=tmp_path) for case in CASES}
    assert all(each.lossy for name, each in options.items() if name != encoder_cases.NANO)
    for name, each in options.items():
        if each.keep is not None:
            share, _, layers = each.keep.partition("@")
            assert f"keep{share}" in name
            assert layers == "3,6,9"
            layer_count = encoder_cases.VIT_B16.vision_config.num_hidden_layers
            assert parse_schedule(each.keep, layer_count, 196)
        assert (each.aspect == "16:9") == name.endswith("16x9")


def test_cases_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [case.name for case in encoder_cases.select([])] == [c.name for c in CASES[:-1]]
    wrong = CliRunner().invoke(app, ["bench", "encoder", "--case", "vit-l14"])
    assert wrong.exit_code == 2
    assert "there is no case 'vit-l14'; choose from vit-b16/int8-dense" in wrong.output
    absent = CliRunner().invoke(app, ["bench", "encoder", "--case", encoder_cases.NANO])
    assert absent.exit_code == 2
    assert "needs checkpoints/roadworld-nano" in absent.output
