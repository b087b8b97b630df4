# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an analysis in hand is still worth waiting for, once newer frames have come."""

from __future__ import annotations

from collections.abc import Callable

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.reasoning.keyframes import KeyframePolicy
from vlm_perception.perception.vision.temporal_state import TemporalState
from vlm_perception.types import Embedding, Trigger

OUTDATING = (Trigger.INSTRUCTION, Trigger.TAGS, Trigger.DRIFT)
"""What makes an analysis out of date before it is there. Age does not: an old answer about a scene
that has stayed the same is still right."""
EARLY = 0.5
"""Share of the usual time of an analysis after which it is waited for all the same: to begin again
would then take longer than the rest, by more than it makes the answer newer."""


class OvertakenError(VlmPerceptionError):
    """An analysis was given up, for a newer frame that shows something else."""


class InHand:
    """A frame that is being analysed, and the gate as it will be once that is done."""

    def __init__(
        self, embedding: Embedding, policy: KeyframePolicy, temporal: TemporalState, until_s: float
    ) -> None:
        """Compare newer frames with this one.

        Args:
            embedding: the frame.
            policy: with this frame as its anchor; is kept.
            temporal: with this frame as its newest; is kept.
            until_s: up to when the analysis may be ended; in the past: never.
        """
        self._run_id, self._sequence = embedding.run_id, embedding.sequence
        self._policy, self._temporal = policy, temporal
        self._until_s = until_s
        self.outdated = False
        """Whether a newer frame shows something else."""
        self.overtaken = False
        """Whether it was ended for that."""

    def see(
        self,
        embedding: Embedding,
        instruction_version: int,
        now_s: float,
        end: Callable[[], bool],
    ) -> None:
        """Take in a newer frame, and end the analysis if that frame should be analysed instead.

        Args:
            embedding: the frame; one that is not newer changes nothing.
            instruction_version: of the instruction in force.
            now_s: the time.
            end: ends the analysis; returns whether it could.
        """
        if embedding.run_id != self._run_id or embedding.sequence <= self._sequence:
            return
        self._sequence = embedding.sequence
        attended = self._temporal.attend(embedding.pooled, embedding.stamp_ns)
        decision = self._policy.decide(embedding, attended, instruction_version)
        if decision.trigger in OUTDATING:
            self.outdated = True
            self.overtaken = self.overtaken or (now_s < self._until_s and end())
