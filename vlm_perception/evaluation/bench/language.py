# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's language model takes for a frame, and what it costs the encoder beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.interrupt import INTERRUPTED
from vlm_perception.common.machine import cpu_count, cpu_model, return_memory
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.engines.registry import AUTO
from vlm_perception.evaluation.bench.interference import Interference, measure_interference
from vlm_perception.evaluation.bench.scene_times import SceneTimes, time_scene
from vlm_perception.evaluation.machine_load import LoadMeter
from vlm_perception.evaluation.report import Report, figure_table
from vlm_perception.perception.language.analysis_cost import AnalysisCost
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

FIRST_SEED = 6_000_000
WARM_UP = 2
"""Scenes that are analysed before it is timed."""
LEAST_SCENES, ENOUGH_S = 3, 60.0
"""After so many seconds no further scene is begun, unless there are fewer."""
MOST_SHARE = 0.15
"""Aim for the cost of one more question."""
MOST_RATIO = 1.10
"""Aim for the encoder's p95 beside a busy language node, against that beside an idle one."""
LEAST_HZ = 5.0
TICK_MS = 1e3 / 10.0
"""At the language node's own rate."""


@dataclass(frozen=True)
class LanguageFigures:
    """Medians over the scenes, times in milliseconds."""

    questions: int
    tower_ms: float
    """Of a vision tower of its own; 0: it has none."""
    prefill_ms: float
    questions_ms: float
    caption_ms: float
    token_ms: float
    """Of each token of a caption but the first."""
    full_analysis_ms: float
    time_to_first_token_ms: float
    """From the embedding to the first token of the caption."""
    extra_question_ms: float | None
    """None where fewer than two questions are asked, as below."""
    extra_question_cost_share: float | None
    """Of a prefill with one answered question."""


def run(
    bundle_name: str,
    *,
    scenes: int,
    threads: int,
    pairs: int,
    seconds: float | None,
    encoder_threads: int = 1,
    video: str | None = None,
) -> Report:
    """Measure the model alone, and in the running graph.

    Args:
        bundle_name: name or directory of the model.
        scenes: frames of the road world, at most; fewer where they take long.
        threads: of the engines, outside the graph.
        pairs: how often the language node of the running graph is switched off and on; 0: the graph
            is not measured.
        seconds: length of each of these phases; None: as long as several analyses take.
        encoder_threads: of the encoder's network in the graph.
        video: what the graph plays; the road world when None.

    Raises:
        BundleError: the bundle cannot be used, or it has no language model.
        VlmPerceptionError: the video cannot be played.
        GraphEnvironmentError: ROS or the built messages are missing.
        BenchError: the graph could not be measured.
    """
    bundle = ModelBundle.load(bundle_name)
    console = Console()
    meter = LoadMeter()
    with console.status("analysing scenes of the road world"):
        figures, engine = _measure_alone(bundle, scenes, threads)
    # The nodes are going to hold the same models.
    return_memory()
    graph = None
    if pairs:
        graph = measure_interference(
            bundle,
            pairs=pairs,
            seconds=seconds,
            analysis_s=figures.full_analysis_ms / 1e3,
            encoder_threads=encoder_threads,
            video=video,
            console=console,
        )
        if graph is None:
            return Report([], code=INTERRUPTED)
    load = meter.load()
    tables = [as_table(figures, bundle.manifest.name, engine, threads)]
    content = as_json(figures, bundle, engine, threads)
    if graph is not None:
        tables.append(graph_table(graph))
        content |= graph_json(graph) | {"encoder_threads": encoder_threads}
    return Report(tables, content, load)


def _measure_alone(bundle: ModelBundle, scenes: int, threads: int) -> tuple[LanguageFigures, str]:
    """The figures without the graph, and the engine; the models are gone when it returns."""
    language = LanguageModel(bundle, threads=threads, engine=AUTO)
    encoder = VisionEncoder(bundle, threads=threads)
    began, times = time.monotonic(), []
    streets = Streets(range(FIRST_SEED, FIRST_SEED + WARM_UP + scenes))
    for number, street in enumerate(streets):
        embedding = encoder.encode(Frame(street.image, number), number)
        times.append(time_scene(bundle, language, embedding))
        if len(times) >= WARM_UP + LEAST_SCENES and time.monotonic() - began > ENOUGH_S:
            break
    questions = bundle.manifest.questions
    cost = language.measure(language.pack(questions), {})
    return summarise(times[WARM_UP:], len(questions), cost), language.engine_name


def summarise(times: Sequence[SceneTimes], questions: int, cost: AnalysisCost) -> LanguageFigures:
    """Medians of the scenes' times.

    Args:
        times: of each scene.
        questions: how many were packed together.
        cost: as the language node measures it: that of its own tower, and of a token, which has
            its time whatever the model says.
    """

    def milliseconds(step: Callable[[SceneTimes], float]) -> float:
        return 1e3 * median(map(step, times))

    extra = share = None
    if questions > 1:
        extra = milliseconds(lambda each: (each.questions - each.one_question) / (questions - 1))
        share = extra / milliseconds(lambda each: each.reading + each.one_question)
    tower = 1e3 * cost.tower_s
    return LanguageFigures(
        questions=questions,
        tower_ms=tower,
        prefill_ms=milliseconds(lambda each: each.reading) - tower,
        questions_ms=milliseconds(lambda each: each.questions),
        caption_ms=milliseconds(lambda each: each.caption),
        token_ms=1e3 * cost.token_s,
        full_analysis_ms=milliseconds(lambda each: each.analysis),
        time_to_first_token_ms=milliseconds(lambda each: each.reading + each.first_token),
        extra_question_ms=extra,
        extra_question_cost_share=share,
    )


def as_table(figures: LanguageFigures, name: str, engine: str, threads: int) -> Table:
    """The figures for people."""
    table = figure_table(
        f"Language model of {name}, {engine}, {threads} thread(s)",
        *("what", "figure", "aim"),
        caption=f"{cpu_model()}, {cpu_count()} cores. Medians over scenes of the road world",
    )
    rows = [("its own vision tower", f"{figures.tower_ms:.1f} ms", "")] if figures.tower_ms else []
    rows += [
        ("prefill of the image", f"{figures.prefill_ms:.1f} ms", ""),
        (f"{figures.questions} typed questions", f"{figures.questions_ms:.1f} ms", ""),
        ("caption", f"{figures.caption_ms:.1f} ms", ""),
        ("one more token of it", f"{figures.token_ms:.2f} ms", ""),
        ("full analysis, all of these", f"{figures.full_analysis_ms:.1f} ms", ""),
        ("time to the first token", f"{figures.time_to_first_token_ms:.1f} ms", ""),
    ]
    if figures.extra_question_ms is not None and figures.extra_question_cost_share is not None:
        share = f"{100 * figures.extra_question_cost_share:.1f} %"
        rows += [
            ("one more question", f"{figures.extra_question_ms:.2f} ms", ""),
            ("the same, of a prefill and one answer", share, f"<= {100 * MOST_SHARE:.0f} %"),
        ]
    for row in rows:
        table.add_row(*row)
    return table


def as_json(
    figures: LanguageFigures, bundle: ModelBundle, engine: str, threads: int
) -> dict[str, object]:
    """The figures under their fixed keys, and what they hold for."""
    return {
        "cpu_model": cpu_model(),
        "cpu_count": cpu_count(),
        "engine": engine,
        "threads": threads,
        "bundle_digest": bundle.digest,
        "questions": figures.questions,
        "tower_ms": round(figures.tower_ms, 3),
        "prefill_ms": round(figures.prefill_ms, 3),
        "questions_ms": round(figures.questions_ms, 3),
        "caption_ms": round(figures.caption_ms, 3),
        "token_ms": round(figures.token_ms, 3),
        "full_analysis_ms": round(figures.full_analysis_ms, 3),
        "time_to_first_token_ms": round(figures.time_to_first_token_ms, 3),
        "extra_question_ms": _rounded(figures.extra_question_ms),
        "extra_question_cost_share": _rounded(figures.extra_question_cost_share),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def graph_table(graph: Interference) -> Table:
    """The figures of the running graph for people."""
    table = figure_table(
        f"Four processes, {cpu_count()} cores: language node off, and analysing every tick",
        *("what", "off", "on", "on / off", "aim"),
        caption="The encoder's time for a frame is the sum of the stages in its messages",
    )
    for number, pair in enumerate(graph.pairs, 1):
        idle, busy = f"{pair.idle_ms:.2f} ms", f"{pair.busy_ms:.2f} ms"
        table.add_row(f"encoder p95, pair {number}", idle, busy, f"{pair.ratio:.3f}", "")
    table.add_row("median of the pairs", "", "", f"{graph.ratio:.3f}", f"<= {MOST_RATIO:.2f}")
    idle, busy = f"{graph.encoder_idle_p50_ms:.2f} ms", f"{graph.encoder_busy_p50_ms:.2f} ms"
    table.add_row("encoder p50, all frames", idle, busy, "", "")
    idle, busy = f"{graph.encoder_idle_hz:.2f} Hz", f"{graph.encoder_hz:.2f} Hz"
    table.add_row("frames encoded", idle, busy, "", "30 Hz")
    table.add_section()
    table.add_row(
        "reasoning messages", "", f"{graph.language_hz:.2f} Hz", "", f">= {LEAST_HZ:g} Hz"
    )
    table.add_row("full analyses", "", f"{graph.analyses_hz:.2f} Hz", "", f">= {LEAST_HZ:g} Hz")
    table.add_row("a full analysis, median", "", f"{graph.analysis_ms:.1f} ms", "", "")
    for name, milliseconds in graph.ask_ms.items():
        aim = f"<= {TICK_MS:.0f} ms" if name == "p95" else ""
        table.add_row(f"an answer of ~/ask, {name}", "", f"{milliseconds:.1f} ms", "", aim)
    table.add_section()
    for name, megabytes in graph.rss_mb.items():
        table.add_row(f"memory of {name}", "", f"{megabytes:.0f} MB", "", "")
    return table


def graph_json(graph: Interference) -> dict[str, object]:
    """The figures of the running graph under their fixed keys."""
    return {
        "encoder_p95_ratio_busy_idle": round(graph.ratio, 4),
        "encoder_p95_pairs_ms": [
            {
                "idle": round(pair.idle_ms, 3),
                "busy": round(pair.busy_ms, 3),
                "ratio": round(pair.ratio, 4),
            }
            for pair in graph.pairs
        ],
        "encoder_p50_idle_ms": round(graph.encoder_idle_p50_ms, 3),
        "encoder_p50_busy_ms": round(graph.encoder_busy_p50_ms, 3),
        "encoder_idle_hz": round(graph.encoder_idle_hz, 3),
        "encoder_hz": round(graph.encoder_hz, 3),
        "language_hz": round(graph.language_hz, 3),
        "analyses_hz": round(graph.analyses_hz, 3),
        "graph_analysis_ms": round(graph.analysis_ms, 3),
        "ask_ms": {name: round(value, 2) for name, value in graph.ask_ms.items()},
        "rss_mb": {name: round(value, 1) for name, value in graph.rss_mb.items()},
    }
