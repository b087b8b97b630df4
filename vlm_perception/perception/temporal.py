# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What was seen a moment ago steadies what is read now, and lets go at once when it has changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlm_perception.perception.spread import RunningSpread
from vlm_perception.perception.vocabulary import Vocabulary

NANOSECONDS = 1e-9

SLOTS = 32
"""Embeddings in the memory: a second of them at 30 Hz, where the bias of age leaves nothing."""
HORIZON_S = 0.3
"""Age whose weight is 1/e of the present's; it falls with the square of the age."""
TEMPERATURE_IN_SPREADS = 8.0
"""Cosine distance, in units of the running spread, that costs as much as that age."""
LONGEST_GAP_S = 1.0
"""A longer pause, or a step back, and the memory has nothing to say about the present."""
DEAD_BAND = 0.4
"""Log-odds beyond its threshold that a label must reach to appear, and fall below it to vanish."""


class TemporalState:
    """Attention from the present embedding over a bounded memory of earlier ones.

    One head, with the identity as its projections, so that it works for any checkpoint: the scores
    are the cosine similarity over a temperature and a bias of age, the values are the embeddings
    themselves. The temperature is measured in units of the running spread. Memories within the
    noise of the present are averaged with it; from a scene that has really changed they differ by
    many spreads and get no weight, so that an event passes at once.

    Costs O(SLOTS x width) a frame; nothing is allocated that grows.
    """

    def __init__(self, width: int) -> None:
        """Remember nothing.

        Args:
            width: of the embeddings.
        """
        self._memory = np.zeros((SLOTS, width), np.float32)
        self._stamps_ns = np.zeros(SLOTS, np.int64)
        self._spread = RunningSpread()
        self._last_ns = 0
        self._count = 0
        self._present: NDArray[np.bool_] | None = None
        self._vocabulary_version = 0

    def reset(self) -> None:
        """Forget everything."""
        self._spread.reset()
        self._last_ns = self._count = 0
        self._present = None

    def attend(self, pooled: NDArray[np.float32], stamp_ns: int) -> NDArray[np.float32]:
        """Take the next embedding and return the attended state.

        Args:
            pooled: [D], L2-normalised.
            stamp_ns: its time. A jump clears the memory, and so does an unknown stamp (0), since
                then no age is known, or an embedding that is not finite.

        Returns:
            [D], L2-normalised; the embedding itself when there is no memory.
        """
        step = (stamp_ns - self._last_ns) * NANOSECONDS
        usable = stamp_ns != 0 and bool(np.isfinite(pooled).all())
        if not usable or not 0.0 <= step <= LONGEST_GAP_S:
            self.reset()
        if not usable:
            return pooled
        self._last_ns = stamp_ns
        self._spread.add(pooled)
        slot = self._count % SLOTS
        self._memory[slot], self._stamps_ns[slot] = pooled, stamp_ns
        self._count += 1
        known = min(self._count, SLOTS)
        memory = self._memory[:known]
        ages = (stamp_ns - self._stamps_ns[:known]) * NANOSECONDS
        distances = 1.0 - memory @ pooled
        scores = -np.square(ages / HORIZON_S) - distances / (
            TEMPERATURE_IN_SPREADS * self._spread.value
        )
        # The present itself scores 0 and the rest less, so that the exponentials need no shift.
        weights = np.exp(scores)
        state = (weights / weights.sum()).astype(np.float32) @ memory
        return np.asarray(state / np.linalg.norm(state), np.float32)

    def present(self, scores: NDArray[np.float32], vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """Say which labels hold, given their probabilities for the attended state.

        A label that was absent must pass its threshold by the dead band to appear, and one that was
        present must fall as far below it to vanish.

        Args:
            scores: [labels].
            vocabulary: the labels; when they change, the band begins anew.

        Returns:
            [labels]
        """
        margins = vocabulary.margins(scores)
        before = self._present
        if before is None or vocabulary.version != self._vocabulary_version:
            self._present = margins >= 0.0
        else:
            self._present = margins >= np.where(before, -DEAD_BAND, DEAD_BAND)
        self._vocabulary_version = vocabulary.version
        return self._present
