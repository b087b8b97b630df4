# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the cases of `evaluate compression` take for the same scenes, one thread, in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.streets import Streets
from vlm_perception.evaluation.machine_load import Load, LoadMeter
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

FIRST_SEED = 6_000_000
WARM_UP = 2
CAPTION_TOKENS = ReasonerSettings.max_caption_tokens
REPEATS = 4
"""Runs of the vision network for each scene; it is short."""


@dataclass(frozen=True)
class Times:
    """Medians over the scenes, in milliseconds."""

    vision: float
    prefill: float
    decode: float
    """Of one token of the caption."""
    analysis: float
    """Prefill, all typed questions and the caption."""


class Stopwatch:
    """The networks of one case, on one thread, and what they took."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load the networks."""
        self._encoder = VisionEncoder(bundle, threads=1)
        self._language = LanguageModel(bundle, threads=1)
        self._packed = self._language.pack(bundle.manifest.questions)
        self._rows: list[tuple[float, float, float, float]] = []

    def see(self, frame: Frame) -> None:
        """Analyse a frame."""
        language, clock = self._language, time.perf_counter
        embeddings = [self._encoder.encode(frame, sequence) for sequence in range(REPEATS)]
        begun = clock()
        prefix = language.read(embeddings[-1])
        read = clock()
        language.answer(prefix, self._packed)
        answered = clock()
        caption = language.generate(prefix, language.spec.caption_prompt, max_tokens=CAPTION_TOKENS)
        done = clock()
        self._rows.append(
            (
                median(embedding.stages["vision"] for embedding in embeddings),
                read - begun,
                # The end token was decoded, too.
                (done - answered) / (len(caption.token_ids) + caption.finished),
                done - begun,
            )
        )

    def times(self) -> Times:
        """Medians, without the first frames."""
        columns = zip(*self._rows[WARM_UP:], strict=True)
        return Times(*(1e3 * median(column) for column in columns))


def take_times(bundles: Mapping[str, ModelBundle], scenes: int) -> tuple[dict[str, Times], Load]:
    """Let the cases analyse scenes in turn; what the machine did meanwhile comes with it."""
    watches = {name: Stopwatch(bundle) for name, bundle in bundles.items()}
    meter = LoadMeter()
    streets = Streets(range(FIRST_SEED, FIRST_SEED + WARM_UP + scenes))
    for street in track(streets, "Timing", transient=True):
        frame = Frame(street.image, 0)
        for watch in watches.values():
            watch.see(frame)
    return {name: watch.times() for name, watch in watches.items()}, meter.load()
