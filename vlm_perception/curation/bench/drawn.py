# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Hashes and embeddings drawn at random, with the structure of real sets.

Images of one camera resemble each other, drives are chains of neighbours, and some images are
copies of others. Without that, no key of the search would be crowded and nothing would be found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vlm_perception.curation.filtering.hash_index import BITS, Hashes

CAMERAS = 16
ALIKE = 0.7
"""What images of one camera share, relative to what is each one's own: their hashes differ in 26
bits on average, those of other cameras in 32."""
DRIVES, DRIVE, STEP = 0.2, 20, 0.15
"""Share of images that are frames of drives, the frames of one, and how far the next one is."""
COPIES, CHANGE = 0.1, 0.05
"""Share of copies, and how far they are from their original."""
BLOCK = 10_000
"""Images drawn at a time: this bounds the memory, and copies are those of images of their block."""

Rows = NDArray[np.float32]


def hashes(count: int, seed: int = 0) -> Hashes:
    """Perceptual hashes, uint64 [count]: the signs of coefficients about their median."""
    found = [
        np.packbits(rows > np.median(rows, axis=1, keepdims=True), axis=1).view(np.uint64).ravel()
        for rows in vectors(count, BITS, seed)
    ]
    return np.concatenate(found)


def vectors(count: int, dimensions: int, seed: int = 0) -> Iterator[Rows]:
    """What images are known by, float32 [N, dimensions] at a time, in a random order."""
    random = np.random.default_rng(seed)
    cameras = ALIKE * random.standard_normal((CAMERAS, dimensions), np.float32)
    for first in range(0, count, BLOCK):
        some = min(BLOCK, count - first)
        rows = random.standard_normal((some, dimensions), np.float32)
        rows += cameras[random.integers(CAMERAS, size=some)]
        in_drives = int(DRIVES * some) // DRIVE * DRIVE
        drives = rows[:in_drives].reshape(-1, DRIVE, dimensions)
        drives[:, 1:] = drives[:, :1] + STEP * np.cumsum(
            random.standard_normal(drives[:, 1:].shape, np.float32), axis=1
        )
        copies = int(COPIES * some)
        originals = random.integers(some - copies, size=copies)
        noise = random.standard_normal((copies, dimensions), np.float32)
        rows[some - copies :] = rows[originals] + CHANGE * noise
        yield rows[random.permutation(some)]
