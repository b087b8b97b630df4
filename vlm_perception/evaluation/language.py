# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's language model takes for a frame, and for one more typed question."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from vlm_perception.bundle import ModelBundle
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.engines.choose import AUTO
from vlm_perception.engines.machine import cpu_count, cpu_model
from vlm_perception.evaluation.load import Load, LoadMeter
from vlm_perception.perception.encoder import VisionEncoder
from vlm_perception.perception.language import LanguageModel
from vlm_perception.perception.reasoner import ReasonerSettings
from vlm_perception.types import Embedding, Frame

FIRST_SEED = 6_000_000
WIDTH, HEIGHT = 1280, 720
WARM_UP = 2
"""Scenes that are analysed before it is timed."""
MOST_SHARE = 0.15
"""Aim for the cost of one more question."""


@dataclass(frozen=True)
class SceneTimes:
    """Seconds of the steps of one frame's analysis."""

    prefill: float
    one_question: float
    questions: float
    """All of them, packed into one sequence."""
    first_token: float
    """Of the caption, behind the prefilled image."""
    caption: float

    @property
    def analysis(self) -> float:
        """What a key frame costs."""
        return self.prefill + self.questions + self.caption


@dataclass(frozen=True)
class LanguageFigures:
    """Medians over the scenes, times in milliseconds."""

    questions: int
    prefill_ms: float
    questions_ms: float
    caption_ms: float
    full_analysis_ms: float
    time_to_first_token_ms: float
    """From the image's tokens to the first token of the caption."""
    extra_question_ms: float
    extra_question_cost_share: float
    """Of a prefill with one answered question."""


def bench_language(
    bundle_name: str,
    *,
    scenes: int,
    threads: int,
    console: Console,
    json_file: Path | None = None,
) -> int:
    """Measure and print a table.

    Args:
        bundle_name: name or directory of the model.
        scenes: frames of the road world.
        threads: of the engines.
        console: where the table goes.
        json_file: where the figures go, too.

    Returns:
        The exit code: 0, or 1 when the machine was loaded and the figures hold for nothing.

    Raises:
        BundleError: the bundle cannot be used, or it has no language model.
        ValueError: it asks fewer than two questions.
    """
    bundle = ModelBundle.load(bundle_name)
    if len(bundle.manifest.questions) < 2:
        raise ValueError(
            f"bundle {bundle.manifest.name} asks fewer than two questions, so that the cost of one "
            "more cannot be told; export it with two or more in bundle.yaml"
        )
    language = LanguageModel(bundle, threads=threads, engine=AUTO)
    encoder = VisionEncoder(bundle, threads=threads)
    meter = LoadMeter()
    with console.status("analysing scenes of the road world"):
        times = [
            time_scene(bundle, language, _embedding(encoder, FIRST_SEED + index))
            for index in range(WARM_UP + scenes)
        ][WARM_UP:]
    load = meter.load()
    figures = summarise(times, len(bundle.manifest.questions))
    console.print(as_table(figures, bundle.manifest.name, language.engine_name, threads))
    console.print(load.verdict(), style="green" if load.quiet else "red")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(figures, bundle, language.engine_name, threads, load)
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if load.quiet else 1


def _embedding(encoder: VisionEncoder, seed: int) -> Embedding:
    image = render(sample_scene(seed), 0.0, WIDTH, HEIGHT).image
    return encoder.encode(Frame(image, seed), seed)


def time_scene(
    bundle: ModelBundle,
    language: LanguageModel,
    embedding: Embedding,
    clock: Callable[[], float] = time.perf_counter,
) -> SceneTimes:
    """Analyse a frame as the reasoner does, and answer one question alone."""
    questions = bundle.manifest.questions
    one, everything = language.pack(questions[:1]), language.pack(questions)
    prompt, most = language.spec.caption_prompt, ReasonerSettings.max_caption_tokens
    start = clock()
    prefix = language.prefill(embedding.tokens)
    prefilled = clock()
    language.answer(prefix, one)
    answered_one = clock()
    language.answer(prefix, everything)
    answered = clock()
    next(language.stream(prefix, prompt, max_tokens=most))
    begun = clock()
    language.generate(prefix, prompt, max_tokens=most)
    return SceneTimes(
        prefill=prefilled - start,
        one_question=answered_one - prefilled,
        questions=answered - answered_one,
        first_token=begun - answered,
        caption=clock() - begun,
    )


def summarise(times: Sequence[SceneTimes], questions: int) -> LanguageFigures:
    """Medians of the scenes' times.

    Args:
        times: of each scene.
        questions: how many were packed together; two or more.
    """

    def milliseconds(step: Callable[[SceneTimes], float]) -> float:
        return 1e3 * median(map(step, times))

    extra = milliseconds(lambda each: (each.questions - each.one_question) / (questions - 1))
    one = milliseconds(lambda each: each.prefill + each.one_question)
    return LanguageFigures(
        questions=questions,
        prefill_ms=milliseconds(lambda each: each.prefill),
        questions_ms=milliseconds(lambda each: each.questions),
        caption_ms=milliseconds(lambda each: each.caption),
        full_analysis_ms=milliseconds(lambda each: each.analysis),
        time_to_first_token_ms=milliseconds(lambda each: each.prefill + each.first_token),
        extra_question_ms=extra,
        extra_question_cost_share=extra / one,
    )


def as_table(figures: LanguageFigures, name: str, engine: str, threads: int) -> Table:
    """The figures for people."""
    table = Table(
        title=f"Language model of {name}, {engine}, {threads} thread(s)",
        caption=f"{cpu_model()}, {cpu_count()} cores. Medians over scenes of the road world",
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("aim", justify="right")
    share = f"{100 * figures.extra_question_cost_share:.1f} %"
    rows = [
        ("prefill of the image", f"{figures.prefill_ms:.1f} ms", ""),
        (f"{figures.questions} typed questions", f"{figures.questions_ms:.1f} ms", ""),
        ("caption", f"{figures.caption_ms:.1f} ms", ""),
        ("full analysis, all of these", f"{figures.full_analysis_ms:.1f} ms", ""),
        ("time to the first token", f"{figures.time_to_first_token_ms:.1f} ms", ""),
        ("one more question", f"{figures.extra_question_ms:.2f} ms", ""),
        ("the same, of a prefill and one answer", share, f"<= {100 * MOST_SHARE:.0f} %"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def as_json(
    figures: LanguageFigures, bundle: ModelBundle, engine: str, threads: int, load: Load
) -> dict[str, object]:
    """The figures under their fixed keys, and what they hold for."""
    return {
        "valid": load.quiet,
        "load": load.as_json(),
        "cpu_model": cpu_model(),
        "cpu_count": cpu_count(),
        "engine": engine,
        "threads": threads,
        "bundle_digest": bundle.digest,
        "questions": figures.questions,
        "prefill_ms": round(figures.prefill_ms, 3),
        "questions_ms": round(figures.questions_ms, 3),
        "caption_ms": round(figures.caption_ms, 3),
        "full_analysis_ms": round(figures.full_analysis_ms, 3),
        "time_to_first_token_ms": round(figures.time_to_first_token_ms, 3),
        "extra_question_ms": round(figures.extra_question_ms, 4),
        "extra_question_cost_share": round(figures.extra_question_cost_share, 4),
    }
