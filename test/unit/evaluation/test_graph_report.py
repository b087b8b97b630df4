# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the running graph, told of one camera and of several."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from vlm_perception.evaluation.bench.graph_figures import CameraFigures
from vlm_perception.evaluation.bench.graph_report import Setting, Span, as_json, as_tables
from vlm_perception.rosgraph.process_usage import Machine
from vlm_perception.rosgraph.source import Source

LATENCY = {"p50": 10.0, "p95": 20.0, "p99": 30.0}
FRONT = CameraFigures(
    published=300,
    published_hz=15.0,
    encoded=297,
    language_hz=5.0,
    analyses_hz=1.0,
    full_analysis_ms=31.7,
    full_analysis_p95_ms=40.0,
    embedding_to_prefill_ms=LATENCY,
    scene_hz=14.9,
    capture_to_embedding_ms=LATENCY,
    capture_to_scene_ms=LATENCY,
    reasoning_age_ms={"p50": 110.0, "p95": 210.0, "p99": 310.0},
    read_kb_s={"scene_fusion": 60.5},
)
REAR = replace(FRONT, encoded=150, scene_hz=7.5)
ALONE = replace(FRONT, language_hz=0.0, scene_hz=14.25, reasoning_age_ms=None)
SETTING = Setting(
    Source("road world", "clip.avi", 30.0, 20.0, (1280, 720)),
    "compressed",
    False,
    "processes",
    Machine("a processor", 2, 3.0, 0.5),
    "digest",
)


def span(**cameras: CameraFigures) -> Span:
    return Span(20.0, {name.strip("_"): each for name, each in cameras.items()}, {}, {})


def printed(*spans: Span | None) -> str:
    console = Console(file=io.StringIO(), width=200)
    for table in as_tables(spans[0] or span(), spans[1], SETTING):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_one_camera_stands_at_the_top() -> None:
    content = json.loads(json.dumps(as_json(span(_=FRONT), span(_=ALONE), SETTING)))
    assert (content["encoded_share"], content["scene_hz"]) == (0.99, 14.9)
    assert content["language_dead"]["scene_hz"] == 14.25
    assert content["language_dead"]["capture_to_scene_ms"]["p99"] == 30.0
    assert "language_dead" not in as_json(span(_=FRONT), None, SETTING)
    text = printed(span(_=FRONT), span(_=ALONE))
    for told in (
        "60 kB/s",
        "99.00 % (297 of 300)",
        "110.0 / 210.0 / 310.0 ms",
        "14.25 Hz",
        ">= 29 Hz",
    ):
        assert told in text


def test_several_cameras_stand_side_by_side() -> None:
    both = span(front=FRONT, rear=REAR)
    cameras = as_json(both, None, SETTING)["cameras"]
    assert isinstance(cameras, dict) and list(cameras) == ["front", "rear"]
    assert [each["encoded_share"] for each in cameras.values()] == [0.99, 0.5]
    text = printed(both, span(front=ALONE, rear=ALONE))
    assert "2 cameras of 1280x720 at 30 Hz" in text
    assert text.count("10.0 / 20.0 / 30.0") == 4 and text.count("language node dead") == 2
    assert ">=" not in text, "the aims are those of one camera"
