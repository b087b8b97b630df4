# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the temporal module is trained on: pooled embeddings over time, with what was true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.sequences import (
    DRIVE,
    STATIC,
    Arrays,
    Stretch,
    play,
    watch,
)
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


@dataclass(frozen=True)
class Seen:
    """What the vision graph saw at each of T frames, and what was true."""

    hz: float
    pooled: NDArray[np.float32]
    """[T, D]"""
    present: NDArray[np.bool_]
    """[T, labels], labels as in LABELS."""
    truths: NDArray[np.int64]
    """[T, questions], index of the true choice; questions as in TYPED_QUESTIONS."""


def stretches(drives: int, quick: int, scenes: int, first_seed: int) -> list[Stretch]:
    """Drives at 10 Hz, shorter ones at a camera's 30 Hz, and static scenes.

    Args:
        drives: of 20 s at 10 frames a second.
        quick: of 8 s at 30 frames a second.
        scenes: of 8 s at 10 frames a second.
        first_seed: of each kind; drives and quick ones follow each other.
    """
    seeds = range(first_seed, first_seed + drives + quick)
    return [
        *(Stretch(DRIVE, seed, 20.0, 10.0) for seed in seeds[:drives]),
        *(Stretch(DRIVE, seed, 8.0, 30.0) for seed in seeds[drives:]),
        *(Stretch(STATIC, first_seed + i, 8.0, 10.0) for i in range(scenes)),
    ]


def see(bundle: ModelBundle, wanted: Sequence[Stretch], folder: Path, workers: int) -> list[Seen]:
    """See what the folder lacks, with a progress bar, and load everything.

    Args:
        bundle: whose vision graph sees.
        wanted: the sequences.
        folder: keeps one file a sequence, below the digest of the vision graph.
        workers: processes.
    """
    home = folder / bundle.manifest.files["vision.onnx"].sha256[:12]
    home.mkdir(parents=True, exist_ok=True)
    files = {
        home / f"{each.kind}-{each.seed}-{each.seconds:g}s-{each.hz:g}hz.npz": each
        for each in wanted
    }
    kept = watch(files, partial(_see, str(bundle.path)), workers)
    return [Seen(each.hz, **arrays) for each, arrays in zip(wanted, kept, strict=True)]


def _see(bundle: str, stretch: Stretch) -> Arrays:
    encoder = _encoder(bundle)
    pooled: list[NDArray[np.float32]] = []
    present, truths = [], []
    for street in play(stretch):
        pooled.append(encoder.encode(Frame(street.image, 0), len(pooled)).pooled)
        present.append(street.present(LABELS))
        truths.append(street.choices(TYPED_QUESTIONS))
    return {
        "pooled": np.stack(pooled),
        "present": np.array(present),
        "truths": np.array(truths, np.int64),
    }


@lru_cache(maxsize=1)
def _encoder(bundle: str) -> VisionEncoder:
    """Once in each process."""
    return VisionEncoder(ModelBundle.load(bundle), temporal=False)
