# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""evaluate cost: what its figures mean, what machines tell, and that any bundle is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import RunError
from vlm_perception.evaluation.cost.alone import measure
from vlm_perception.evaluation.cost.energy import RailMeter, find_meter
from vlm_perception.evaluation.cost.evaluate import run
from vlm_perception.evaluation.cost.figures import figures
from vlm_perception.evaluation.cost.gpu_memory import GpuMemory
from vlm_perception.evaluation.measured_process import output_of


def test_figures_are_percentiles_of_the_images() -> None:
    records = [
        {"encoder_ms": ms, "tower_ms": 0.0, "prefill_ms": 10.0, "questions_ms": 7.0}
        | {"decode_ms": 3 * ms, "caption_tokens": ms}
        for ms in range(1, 102)
    ]
    found = figures(records)
    assert (found["encoder_ms"], found["encoder_ms_p95"]) == (51.0, 96.0)
    assert (found["total_ms"], found["total_ms_p95"]) == (10 + 4 * 51.0, 10 + 4 * 96.0)
    assert (found["prefill_ms"], found["questions_ms_p95"], found["caption_tokens"]) == (10, 7, 51)
    alone = figures([{"encoder_ms": 5.0}])
    assert alone["total_ms"] == alone["encoder_ms"] == 5.0
    assert np.isnan(alone["decode_ms"])


def put(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_energy_of_processor_packages(tmp_path: Path) -> None:
    zones = tmp_path / "class" / "powercap"
    first, second = (
        put(zones / zone, name=name, energy_uj=before, max_energy_range_uj=10_000_000)
        for zone, name, before in (
            ("intel-rapl:0", "package-0", 9_000_000),
            ("intel-rapl:2", "package-1", 0),
        )
    )
    others = [
        put(zones / zone, name=name, energy_uj=0)
        for zone, name in (("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"))
    ]
    meter = find_meter(tmp_path)
    assert meter is not None
    with meter:
        put(first, energy_uj=500_000)
        put(second, energy_uj=2_000_000)
        for zone in others:
            put(zone, energy_uj=99_000_000)
    assert meter.joules == pytest.approx(1.5 + 2.0), "a counter began anew; parts count once"
    (second / "energy_uj").unlink()
    assert find_meter(tmp_path) is None


def test_energy_of_supply_rails(tmp_path: Path) -> None:
    chips = tmp_path / "class" / "hwmon"
    put(chips / "hwmon0", name="cpu_thermal")
    assert find_meter(tmp_path) is None
    chip = put(chips / "hwmon1", name="ina3221", in1_label="VDD_GPU", in2_label="VDD_CPU")
    put(chip, in1_input=5000, curr1_input=400, in2_input=5000, curr2_input=200)
    meter = find_meter(tmp_path)
    assert isinstance(meter, RailMeter)
    assert "VDD_GPU, VDD_CPU" in meter.source
    seconds = iter((10.0, 14.0))
    clocked = RailMeter(meter._rails, lambda: next(seconds), period_s=60.0)
    with clocked:
        put(chip, curr1_input=800)
    assert clocked.joules == pytest.approx(4.0 * (3.0 + 5.0) / 2)
    put(chip, in3_label="VDD_IN", in3_input=20_000, curr3_input=500)
    whole = find_meter(tmp_path)
    assert whole is not None
    assert "rails VDD_IN " in whole.source


def test_memory_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with GpuMemory() as none:
        pass
    assert none.peak_mb is None
    tool = put(
        tmp_path, **{"nvidia-smi": "#!/bin/sh\necho 100\nif [ -e $0.busy ]; then echo 300; fi"}
    )
    (tool / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr("vlm_perception.evaluation.cost.gpu_memory.PERIOD_S", 0.001)
    with GpuMemory() as gpu:
        put(tmp_path, **{"nvidia-smi.busy": ""})
        while not gpu.peak_mb:
            pass
    assert gpu.peak_mb == pytest.approx(300 * 1.048576)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", "process ended with SIGKILL; .* memory is full"),
        ("import os; os.kill(os.getpid(), 40)", "process ended with signal 40;"),
        ("raise OSError('the disk\\nis full')", r"ended with exit code 1 \(is full\); "),
    ],
)
def test_how_the_measured_process_ended_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, sentence: str
) -> None:
    (tmp_path / "doomed.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=sentence) as told:
        output_of("doomed")
    assert "Traceback" not in str(told.value)


def test_any_bundle_is_measured(tmp_path: Path) -> None:
    bundle = ModelBundle.load("roadworld-nano")
    image = tmp_path / "0.npy"
    np.save(image, np.full((36, 64, 3), 90, np.uint8))
    found = measure(bundle, [image] * 3, threads=1)
    (record,) = found["records"]
    assert min(record[step] for step in ("encoder_ms", "prefill_ms", "decode_ms")) > 0
    assert found["peak_rss_mb"] > 50
    spec = bundle.manifest.language
    assert spec is not None
    assert found["kv_bytes_in_all"] > spec.kv_bytes_per_image
    tags = replace(bundle, manifest=bundle.manifest.model_copy(update={"language": None}))
    found = measure(tags, [image] * 3, threads=1)
    assert found["records"][0].keys() == {"encoder_ms"}
    assert found["kv_bytes_in_all"] is None


@pytest.mark.slow
def test_the_figures_are_written(tmp_path: Path) -> None:
    path, console = tmp_path / "cost.json", Console(record=True, width=100)
    report = run("roadworld-nano", scenes=1, threads=1)
    code = report.show(console, path)
    found = json.loads(path.read_text())
    cost = found["cost"]
    assert code == (0 if found["valid"] else 1)
    assert found["bundle_digest"] == ModelBundle.load("roadworld-nano").digest
    assert cost["total_ms"] > cost["decode_ms"] > cost["encoder_ms"] > 0
    assert cost["kv_bytes_in_all"] > cost["kv_bytes_per_image"] > cost["tokens_per_image"] > 0
    assert cost["peak_rss_mb"] > 50
    assert found["sets"][0]["split"] == "seeds 6500002 to 6500002"
    assert "total, from the image to the end of its caption" in console.export_text()
