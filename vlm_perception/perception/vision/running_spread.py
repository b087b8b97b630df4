# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How far apart successive embeddings are while nothing happens."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

REMEMBERED_STEPS = 64
LEAST_SPREAD = 1e-4
"""Rounding of an engine alone makes no more; frames of a halted video differ by less."""


class RunningSpread:
    """Median cosine distance from one embedding to the next, over the latest ones.

    The median, since the frames in which something happens are outvoted by the quiet ones: up to
    half of the remembered steps may be of any size. Sensor noise, compression, automatic exposure
    and steady motion of the camera all count as quiet, so that what is measured in units of this
    spread needs no setting for a camera or a model.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._steps = np.zeros(REMEMBERED_STEPS, np.float32)
        self._count = 0
        self._previous: NDArray[np.float32] | None = None

    def copy(self) -> RunningSpread:
        """Return another that remembers the same."""
        other = copy(self)
        other._steps = self._steps.copy()
        return other

    @property
    def value(self) -> float:
        """The spread; before the second embedding the least one."""
        known = self._steps[: min(self._count, REMEMBERED_STEPS)]
        return max(LEAST_SPREAD, float(np.median(known))) if len(known) else LEAST_SPREAD

    def add(self, pooled: NDArray[np.float32]) -> None:
        """Take the next embedding, [D], L2-normalised."""
        if self._previous is not None:
            self._steps[self._count % REMEMBERED_STEPS] = cosine_distance(self._previous, pooled)
            self._count += 1
        self._previous = pooled

    def reset(self) -> None:
        """Forget everything, as when the next embedding has nothing to do with the last one."""
        self._count = 0
        self._previous = None


def cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine distance of two L2-normalised vectors, 0 to 2."""
    return max(0.0, 1.0 - float(np.dot(a, b)))
