# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What was seen a moment ago steadies what is read now, and lets go at once when it has changed."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import TEMPORAL_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import ReadoutSpec, TemporalSpec
from vlm_perception.engines.base import Engine
from vlm_perception.perception.vision.running_spread import RunningSpread
from vlm_perception.perception.vision.vocabulary import Vocabulary

NANOSECONDS = 1e-9

SLOTS = 32
"""Embeddings in the memory of the training-free form: a second of them at 30 Hz, where the bias of
age leaves nothing."""
HORIZON_S = 0.3
"""Age whose weight is 1/e of the present's; it falls with the square of the age."""
TEMPERATURE_IN_SPREADS = 8.0
"""Cosine distance, in units of the running spread, that costs as much as that age."""
LONGEST_GAP_S = 1.0
"""After a longer pause, or a step back, the memory is meaningless for the present."""
DEAD_BAND = 0.4
"""Log-odds beyond its threshold that a label must reach to appear, and fall below it to vanish."""
SCALE_IN_SPREADS = 6.0
"""Distance of two events from which on they are different, in units of the running spread."""
EMPTY = -1.0
"""Age of a slot of the memory that holds nothing."""


@dataclass(frozen=True)
class Evidence:
    """What the trained module's readouts make of the present, without the language model."""

    readouts: tuple[ReadoutSpec, ...]
    values: NDArray[np.float32]
    """[choices], log-probabilities of the choices of all readouts, side by side."""


@dataclass(frozen=True)
class Attended:
    """What the memory makes of the present embedding."""

    state: NDArray[np.float32]
    """[D], L2-normalised, in text space: what labels are compared with."""
    event: NDArray[np.float32]
    """[E], L2-normalised: how far it moves shows whether something has happened."""
    scale: float
    """Cosine distance of two events from which on they are different; below it may be noise."""
    evidence: Evidence | None = None


class Attention(Protocol):
    """Reads the present embedding together with a memory of earlier ones."""

    slots: int

    def read(
        self,
        pooled: NDArray[np.float32],
        memory: NDArray[np.float32],
        ages: NDArray[np.float32],
    ) -> Attended:
        """Attend from pooled, [D], over memory, [slots, D], with ages, [slots], in seconds.

        An age below zero marks an empty slot.
        """
        ...

    def reset(self) -> None:
        """Forget what else is kept of the past."""
        ...

    def copy(self) -> Attention:
        """Return another that remembers the same."""
        ...


class TrainingFreeAttention:
    """One head with the identity as its projections, so that it works for any checkpoint.

    The scores are the cosine similarity over a temperature and a bias of age, the values are the
    embeddings themselves. The temperature is measured in units of the running spread. Memories
    within the noise of the present are averaged with it; from a scene that has really changed they
    differ by many spreads and get no weight, so that an event passes at once. The event embedding
    is the state.
    """

    slots = SLOTS

    def __init__(self) -> None:
        """Know no spread yet."""
        self._spread = RunningSpread()

    def copy(self) -> TrainingFreeAttention:
        """Return another that remembers the same."""
        other = copy(self)
        other._spread = self._spread.copy()
        return other

    def reset(self) -> None:
        """Forget the spread."""
        self._spread.reset()

    def read(
        self,
        pooled: NDArray[np.float32],
        memory: NDArray[np.float32],
        ages: NDArray[np.float32],
    ) -> Attended:
        """Attend; see Attention."""
        self._spread.add(pooled)
        # The present scores 0 and the rest less, so that the exponentials need no shift.
        scores = -np.square(ages / HORIZON_S) - (1.0 - memory @ pooled) / (
            TEMPERATURE_IN_SPREADS * self._spread.value
        )
        weights = np.where(ages >= 0.0, np.exp(scores), 0.0).astype(np.float32)
        state = pooled + weights @ memory
        state = np.asarray(state / np.linalg.norm(state), np.float32)
        return Attended(state, state, SCALE_IN_SPREADS * self._spread.value)


class TrainedAttention:
    """The bundle's own module, trained on sequences."""

    def __init__(self, engine: Engine, spec: TemporalSpec) -> None:
        """Take a loaded graph and its entry in the manifest."""
        self.engine = engine
        self._spec = spec
        self._spread = RunningSpread()
        slots = engine.inputs["ages"].shape[1]
        assert isinstance(slots, int)
        self.slots = slots

    def copy(self) -> TrainedAttention:
        """Return another that remembers the same, with the same engine."""
        other = copy(self)
        other._spread = self._spread.copy()
        return other

    def reset(self) -> None:
        """Forget the spread."""
        self._spread.reset()

    def read(
        self,
        pooled: NDArray[np.float32],
        memory: NDArray[np.float32],
        ages: NDArray[np.float32],
    ) -> Attended:
        """Attend; see Attention."""
        outputs = self.engine.run(
            {"pooled": pooled[None], "memory": memory[None], "ages": ages[None]}
        )
        event = outputs["event"][0]
        self._spread.add(event)
        scale = max(self._spec.drift_unit, SCALE_IN_SPREADS * self._spread.value)
        readouts = self._spec.readouts
        evidence = Evidence(readouts, outputs["evidence"][0]) if readouts else None
        return Attended(outputs["state"][0], event, scale, evidence)


def bundle_attention(bundle: ModelBundle) -> Attention:
    """The trained form where the bundle has it, else the training-free one."""
    spec = bundle.manifest.temporal
    if spec is None:
        return TrainingFreeAttention()
    return TrainedAttention(bundle.engine(TEMPORAL_GRAPH), spec)


class TemporalState:
    """A bounded memory of embeddings and an attention that reads it.

    Costs O(slots x width) a frame; nothing is allocated that grows.
    """

    def __init__(self, width: int, attention: Attention) -> None:
        """Remember nothing.

        Args:
            width: of the embeddings.
            attention: what reads the memory.
        """
        self._attention = attention
        self._memory = np.zeros((attention.slots, width), np.float32)
        self._stamps_ns = np.zeros(attention.slots, np.int64)
        self._last_ns = 0
        self._count = 0
        self._present: NDArray[np.bool_] | None = None
        self._vocabulary_version = 0

    @property
    def engines(self) -> dict[str, Engine]:
        """The graph that is run, if any, by its name in the bundle."""
        attention = self._attention
        return {TEMPORAL_GRAPH: attention.engine} if isinstance(attention, TrainedAttention) else {}

    def copy(self) -> TemporalState:
        """Return another that remembers the same; what either takes, the other does not."""
        other = copy(self)
        other._attention = self._attention.copy()
        other._memory, other._stamps_ns = self._memory.copy(), self._stamps_ns.copy()
        return other

    def reset(self) -> None:
        """Forget everything."""
        self._attention.reset()
        self._last_ns = self._count = 0
        self._present = None

    def attend(self, pooled: NDArray[np.float32], stamp_ns: int) -> Attended:
        """Take the next embedding and return what the memory makes of it.

        Args:
            pooled: [D], L2-normalised.
            stamp_ns: its time. A jump clears the memory, and so does an unknown stamp (0), since
                then no age is known, or an embedding that is not finite.

        Returns:
            The attended state; that of the embedding alone when there is no memory.
        """
        step = (stamp_ns - self._last_ns) * NANOSECONDS
        usable = stamp_ns != 0 and bool(np.isfinite(pooled).all())
        if not usable or not 0.0 <= step <= LONGEST_GAP_S:
            self.reset()
        known = np.arange(len(self._stamps_ns)) < self._count
        ages = np.where(known, (stamp_ns - self._stamps_ns) * NANOSECONDS, EMPTY)
        attended = self._attention.read(pooled, self._memory, ages.astype(np.float32))
        if usable:
            slot = self._count % len(self._stamps_ns)
            self._memory[slot], self._stamps_ns[slot] = pooled, stamp_ns
            self._last_ns = stamp_ns
            self._count += 1
        return attended

    def present(self, scores: NDArray[np.float32], vocabulary: Vocabulary) -> NDArray[np.bool_]:
        """Say which labels hold, given their probabilities for the attended state.

        A label that was absent must pass its threshold by the dead band to appear, and one that was
        present must fall as far below it to vanish.

        Args:
            scores: [labels].
            vocabulary: the labels; when they change, the band starts over.

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
