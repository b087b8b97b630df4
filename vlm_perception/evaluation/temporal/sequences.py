# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Road-world sequences, analysed in full at every tick and kept on disk.

A gate or a filter only chooses among the networks' outputs, so that any number of them can be
compared on one such run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import TEMPORAL_GRAPH, ModelBundle
from vlm_perception.datasets.roadworld.sequences import Arrays, Stretch, label_shares, play, watch
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS
from vlm_perception.datasets.roadworld.truth import (
    PRESENT_SHARE,
    QUESTIONS,
    ObjectTruth,
    SceneTruth,
)
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

TICK_HZ = 10.0
VERSION = 2
"""Raise it when the same seed gives another sequence: recordings in a folder are then rebuilt."""


@dataclass(frozen=True)
class Recording:
    """Ground truth and outputs at each of T ticks of one sequence."""

    pooled: NDArray[np.float32]
    """[T, D]"""
    probabilities: NDArray[np.float32]
    """[T, choices] of all questions, side by side in the order of QUESTIONS."""
    truths: NDArray[np.int64]
    """[T, questions], index of the true choice."""
    shares: NDArray[np.float32]
    """[T, labels], share of the image that the largest object covers; labels as in LABELS."""
    distances: NDArray[np.float32]
    """[T, 3], metres to the nearest light, person in the path, cone or barrier; NaN without one."""

    @property
    def answers(self) -> NDArray[np.int64]:
        """[T, questions], index of the likeliest choice; questions in the order of QUESTIONS."""
        return likeliest(self.probabilities)


def likeliest(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index of the likeliest choice, [..., questions], of probabilities, [..., choices]."""
    edges = np.cumsum([len(choices) for _, choices in QUESTIONS.values()])[:-1]
    parts = np.split(probabilities, edges, axis=-1)
    return np.stack([part.argmax(axis=-1) for part in parts], axis=-1)


def record(
    bundle: ModelBundle, kinds: Sequence[tuple[str, range]], seconds: float, folder: Path
) -> dict[str, list[Recording]]:
    """Record what the folder lacks, on all cores and with a progress bar, and load everything.

    Args:
        bundle: the model, a road-world one with a language part.
        kinds: DRIVE or STATIC with the seeds of each.
        seconds: length of each sequence.
        folder: takes one file a sequence, below a digest of what sees and answers.
    """
    home = folder / f"{_analysts_digest(bundle)[:12]}-v{VERSION}"
    home.mkdir(parents=True, exist_ok=True)
    wanted = {
        home / f"{kind}-{seed}-{seconds:g}s.npz": Stretch(kind, seed, seconds, TICK_HZ)
        for kind, seeds in kinds
        for seed in seeds
    }
    kept = watch(wanted, partial(_analyse, str(bundle.path)))
    recordings: dict[str, list[Recording]] = {kind: [] for kind, _ in kinds}
    for stretch, arrays in zip(wanted.values(), kept, strict=True):
        recordings[stretch.kind].append(Recording(**arrays))
    return recordings


def _analysts_digest(bundle: ModelBundle) -> str:
    """Of everything that a recording depends on: the temporal module is applied to it later."""
    digest = sha256(str(bundle.manifest.questions).encode())
    for name, file in sorted(bundle.manifest.files.items()):
        if name != TEMPORAL_GRAPH and Path(name).suffix in (".onnx", ".npy", ".json"):
            digest.update(f"{name} {file.sha256}".encode())
    return digest.hexdigest()


class _Analyst:
    """A bundle's encoder and language model with the road world's questions."""

    def __init__(self, bundle: ModelBundle) -> None:
        self._encoder = VisionEncoder(bundle)
        self._language = LanguageModel(bundle)
        # The bundle's own where it has them: they have been calibrated.
        known = {spec.name: spec for spec in bundle.manifest.questions}
        asked = [known.get(spec.name, spec) for spec in TYPED_QUESTIONS]
        self._questions = self._language.pack(asked)

    def analyse(self, stretch: Stretch) -> Recording:
        rows: list[tuple[NDArray[np.float32], list[float], list[int], list[float], list[float]]]
        rows = []
        for street in play(stretch):
            embedding = self._encoder.encode(Frame(street.image, 0), len(rows))
            prefix = self._language.read(embedding)
            answers = self._language.answer(prefix, self._questions)
            rows.append(
                (
                    embedding.pooled,
                    [value for each in answers for value in each.probabilities],
                    street.choices(TYPED_QUESTIONS),
                    label_shares(street.truth),
                    _distances(street.truth),
                )
            )
        pooled, probabilities, truths, shares, distances = zip(*rows, strict=True)
        return Recording(
            np.stack(pooled),
            np.array(probabilities, np.float32),
            np.array(truths, np.int64),
            np.array(shares, np.float32),
            np.array(distances, np.float32),
        )


def _analyse(bundle: str, stretch: Stretch) -> Arrays:
    return vars(_analyst(bundle).analyse(stretch))


@lru_cache(maxsize=1)
def _analyst(bundle: str) -> _Analyst:
    """Once in each process."""
    return _Analyst(ModelBundle.load(bundle))


def _distances(truth: SceneTruth) -> list[float]:
    kinds: tuple[Callable[[ObjectTruth], bool], ...] = (
        lambda thing: thing.label.endswith("traffic light"),
        lambda thing: thing.label == "pedestrian" and abs(thing.offset) < 1.7,
        lambda thing: thing.label in ("cone", "barrier"),
    )
    present = [thing for thing in truth.objects if thing.share >= PRESENT_SHARE]
    return [
        min((thing.distance for thing in present if holds(thing)), default=float("nan"))
        for holds in kinds
    ]
