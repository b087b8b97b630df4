# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the running graph as JSON under fixed keys, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from vlm_perception.evaluation.bench.graph_figures import CameraFigures, Percentiles
from vlm_perception.evaluation.report import figure_table
from vlm_perception.rosgraph.process_usage import Machine
from vlm_perception.rosgraph.source import Source

ENCODED, REASONED = "frames encoded", "reasoning messages"
ANALYSED, SCENES = "full analyses", "scenes of new images"
AIMED_HZ = 30.0
TO_SCENE = "capture to scene, p50/p95/p99"
ONE_CAMERA = ("what", "figure", "aim")
SEVERAL_CAMERAS = (
    "camera", "encoded", "reasoning", "scenes", "capture to scene, p50/p95/p99 ms",
    "age of the reasoning, p50/p99 ms",
)  # fmt: skip


@dataclass(frozen=True)
class Span:
    """What was measured over a span of time: each camera, and what each process cost."""

    seconds: float
    cameras: Mapping[str, CameraFigures]
    """By name; the only camera may have none."""
    rss_mb: Mapping[str, float]
    cpu_percent: Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """What the figures hold for."""

    source: Source
    transport: str
    force_keyframes: bool
    composition: str
    machine: Machine
    bundle_digest: str


def as_json(span: Span, without_language: Span | None, setting: Setting) -> dict[str, object]:
    """The figures under their fixed keys, and what they hold for.

    Those of one camera are at the top level, those of several under `cameras` and the camera's
    name.
    """
    return {
        "valid": None,
        **_cameras_as_json(span),
        **(
            {"language_dead": _cameras_as_json(without_language)}
            if without_language is not None
            else {}
        ),
        "rss_mb": _rounded_all(span.rss_mb),
        "cpu_percent": _rounded_all(span.cpu_percent),
        "seconds": round(span.seconds, 2),
        "source": setting.source.description,
        "image_size": list(setting.source.size),
        "rate_hz": setting.source.rate_hz,
        "transport": setting.transport,
        "force_keyframes": setting.force_keyframes,
        "composition": setting.composition,
        "bundle_digest": setting.bundle_digest,
        **setting.machine.as_json(),
    }


def _cameras_as_json(span: Span) -> dict[str, object]:
    if len(span.cameras) == 1:
        return _camera_as_json(*span.cameras.values())
    return {"cameras": {name: _camera_as_json(each) for name, each in span.cameras.items()}}


def _camera_as_json(figures: CameraFigures) -> dict[str, object]:
    return {
        "encoded_share": round(figures.encoded_share, 5),
        "language_hz": round(figures.language_hz, 3),
        "analyses_hz": round(figures.analyses_hz, 3),
        "full_analysis_ms": _rounded(figures.full_analysis_ms),
        "full_analysis_p95_ms": _rounded(figures.full_analysis_p95_ms),
        "embedding_to_prefill_ms": _rounded_all(figures.embedding_to_prefill_ms),
        "scene_hz": round(figures.scene_hz, 3),
        "capture_to_embedding_ms": _rounded_all(figures.capture_to_embedding_ms),
        "capture_to_scene_ms": _rounded_all(figures.capture_to_scene_ms),
        "reasoning_age_ms": _rounded_all(figures.reasoning_age_ms),
        "published_hz": round(figures.published_hz, 3),
        "published_frames": figures.published,
        "encoded_frames": figures.encoded,
        "read_kb_s": _rounded_all(figures.read_kb_s),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _rounded_all(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else {key: round(value, 2) for key, value in values.items()}


def as_tables(span: Span, without_language: Span | None, setting: Setting) -> Iterator[Table]:
    """The figures for people: first the cameras, then the processes."""
    machine = setting.machine
    one = len(span.cameras) == 1
    table = figure_table(
        _title(span, setting),
        *(ONE_CAMERA if one else SEVERAL_CAMERAS),
        caption=f"{machine.cpu_model}, {machine.cpu_count} cores, busy before the start: "
        f"{machine.busy_percent:.0f} % (load {machine.load_average:.1f})",
    )
    if one:
        _fill_one(table, span, without_language, setting)
    else:
        _fill_several(table, span, without_language)
    yield table
    costs = Table("process", "of a core", "memory")
    for name, megabytes in span.rss_mb.items():
        costs.add_row(name, f"{span.cpu_percent[name]:.0f} %", f"{megabytes:.0f} MB")
    yield costs


def _title(span: Span, setting: Setting) -> str:
    width, height = setting.source.size
    several = f"{len(span.cameras)} cameras of " if len(span.cameras) > 1 else ""
    forced = ", a full analysis on every tick" if setting.force_keyframes else ""
    return (
        f"{several}{width}x{height} at {setting.source.rate_hz:g} Hz, {setting.transport} images, "
        f"{len(span.rss_mb)} processes, {span.seconds:.0f} s{forced}"
    )


def _fill_one(table: Table, span: Span, without_language: Span | None, setting: Setting) -> None:
    """A line for each figure."""
    aims = _aims(setting)
    (figures,) = span.cameras.values()
    for what, shown in _rows(figures).items():
        table.add_row(what, shown, aims.get(what, ""))
    if without_language is not None:
        (alone,) = without_language.cameras.values()
        table.add_section()
        table.add_row("language node dead: scenes", f"{alone.scene_hz:.2f} Hz")
        shown = _shown_all(alone.capture_to_scene_ms)
        table.add_row("language node dead: capture to scene, p50/p95/p99", shown)


def _fill_several(table: Table, span: Span, without_language: Span | None) -> None:
    """A line for each camera."""
    for each, note in ((span, ""), (without_language, ", language node dead")):
        if each is None:
            continue
        table.add_section()
        for name, figures in each.cameras.items():
            ages = figures.reasoning_age_ms or {}
            table.add_row(
                name + note,
                f"{100 * figures.encoded_share:.1f} %",
                f"{figures.language_hz:.2f} Hz",
                f"{figures.scene_hz:.2f} Hz",
                _joined(figures.capture_to_scene_ms),
                _joined({key: ages[key] for key in ("p50", "p99") if key in ages}),
            )


def _aims(setting: Setting) -> dict[str, str]:
    """What one camera of 30 Hz should come to; a slower one has no aims."""
    if setting.source.rate_hz < AIMED_HZ:
        return {}
    aims = {
        ENCODED: ">= 99 %",
        REASONED: ">= 5 Hz",
        SCENES: ">= 29 Hz",
        TO_SCENE: "p95 <= 66 ms",
    }
    return aims | ({ANALYSED: ">= 5 Hz"} if setting.force_keyframes else {})


def _rows(figures: CameraFigures) -> dict[str, str]:
    share = f"{100 * figures.encoded_share:.2f} % ({figures.encoded} of {figures.published})"
    return {
        "frames published": f"{figures.published_hz:.2f} Hz",
        ENCODED: share,
        REASONED: f"{figures.language_hz:.2f} Hz",
        ANALYSED: f"{figures.analyses_hz:.2f} Hz",
        "a full analysis, median": _shown(figures.full_analysis_ms),
        "embedding of a key frame to its prefill, p50/p95/p99": _shown_all(
            figures.embedding_to_prefill_ms
        ),
        SCENES: f"{figures.scene_hz:.2f} Hz",
        "capture to embedding, p50/p95/p99": _shown_all(figures.capture_to_embedding_ms),
        TO_SCENE: _shown_all(figures.capture_to_scene_ms),
        "age of the reasoning in a scene, p50/p95/p99": _shown_all(figures.reasoning_age_ms),
        **{f"{node} reads": f"{rate:.0f} kB/s" for node, rate in figures.read_kb_s.items()},
    }


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _shown_all(latency: Percentiles | None) -> str:
    return f"{_joined(latency)} ms"


def _joined(percentiles: Percentiles | None) -> str:
    return " / ".join(f"{value:.1f}" for value in (percentiles or {}).values()) or "-"
