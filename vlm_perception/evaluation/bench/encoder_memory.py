# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a process that encodes images and does nothing else."""

from __future__ import annotations

import sys

import numpy as np

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.machine import peak_memory
from vlm_perception.evaluation.measured_process import output_of
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame

FRAMES = 20


def peak_rss_mb(bundle: ModelBundle, *, engine: str, threads: int) -> float:
    """Start a process that loads the encoder of a bundle and encodes 20 frames; its peak in MB.

    Raises:
        RunError: the process failed.
    """
    return float(output_of(__name__, str(bundle.path), engine, str(threads)))


def main() -> None:
    """Encode, and print this process's peak in MB."""
    path, engine, threads = sys.argv[1:]
    encoder = VisionEncoder(ModelBundle.load(path), threads=int(threads), engine=engine)
    image = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    for sequence in range(FRAMES):
        encoder.encode(Frame(image, 0), sequence)
    print(peak_memory() / 1e6)


if __name__ == "__main__":
    main()
