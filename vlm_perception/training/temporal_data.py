# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What the temporal module is trained on: pooled embeddings over time, with what was true."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.sequences import DRIVE, STATIC, play
from vlm_perception.datasets.roadworld.streets import TYPED_QUESTIONS
from vlm_perception.datasets.roadworld.world import LABELS
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


@dataclass(frozen=True)
class Stretch:
    """One sequence to be seen."""

    kind: str
    """DRIVE or STATIC."""
    seed: int
    seconds: float
    hz: float

    @property
    def file(self) -> str:
        """Name of the file that keeps it."""
        return f"{self.kind}-{self.seed}-{self.seconds:g}s-{self.hz:g}hz.npz"


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
    """Drives at 10 Hz, shorter ones at a camera's 30 Hz, and scenes that stand still.

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


def watch(bundle: ModelBundle, wanted: Sequence[Stretch], folder: Path, workers: int) -> list[Seen]:
    """See what the folder lacks, with a progress bar, and load everything.

    Args:
        bundle: whose vision graph sees.
        wanted: the sequences.
        folder: keeps one file a sequence, below the digest of the vision graph.
        workers: processes.
    """
    home = folder / bundle.manifest.files["vision.onnx"].sha256[:12]
    home.mkdir(parents=True, exist_ok=True)
    missing = [each for each in wanted if not (home / each.file).exists()]
    # Not forked: OpenCV deadlocks in the copy of a process whose OpenCV has threads.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        work = pool.map(partial(_watch, str(bundle.path), home), missing)
        for _ in track(work, "Driving", total=len(missing)):
            pass
    seen = []
    for each in wanted:
        with np.load(home / each.file) as stored:
            seen.append(Seen(each.hz, stored["pooled"], stored["present"], stored["truths"]))
    return seen


def _watch(bundle: str, home: Path, stretch: Stretch) -> None:
    """Render and encode one sequence and write it; a broken-off run leaves no file."""
    cv2.setNumThreads(1)
    encoder = _encoder(bundle)
    pooled: list[NDArray[np.float32]] = []
    present, truths = [], []
    for street in play(stretch.kind, stretch.seed, stretch.seconds, stretch.hz):
        pooled.append(encoder.encode(Frame(street.image, 0), len(pooled)).pooled)
        present.append(street.present(LABELS))
        truths.append(street.choices(TYPED_QUESTIONS))
    partly = home / f".{os.getpid()}-{stretch.file}"
    with partly.open("wb") as file:
        np.savez_compressed(
            file,
            pooled=np.stack(pooled),
            present=np.array(present),
            truths=np.array(truths, np.int64),
        )
    partly.rename(home / stretch.file)


@lru_cache(maxsize=1)
def _encoder(bundle: str) -> VisionEncoder:
    """Once in each process."""
    return VisionEncoder(ModelBundle.load(bundle), temporal=False)
