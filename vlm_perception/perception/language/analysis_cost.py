# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""What an analysis by a bundle's language model costs on a machine, part by part."""

from __future__ import annotations

from pydantic import NonNegativeFloat

from vlm_perception.common.measurement_cache import Measurement


class AnalysisCost(Measurement):
    """Seconds of the parts of an analysis, whatever the model says."""

    tower_s: NonNegativeFloat = 0.0
    """Of looking at an image with a vision tower of its own; 0 where it has none."""
    prefill_s: NonNegativeFloat
    """Of reading what was seen."""
    questions_s: NonNegativeFloat
    """Of answering all questions."""
    prompt_s: NonNegativeFloat
    """Of the caption's prompt, which gives its first token."""
    token_s: NonNegativeFloat
    """Of each further token."""

    @property
    def read_s(self) -> float:
        """Seconds until an image is read."""
        return self.tower_s + self.prefill_s

    @property
    def answers_s(self) -> float:
        """Seconds until all questions are answered."""
        return self.read_s + self.questions_s

    def caption_s(self, tokens: int) -> float:
        """Seconds that a caption of this many tokens takes."""
        return self.prompt_s + self.token_s * (tokens - 1)

    def tokens_within(self, seconds: float, most: int) -> int:
        """The longest caption, in tokens, that takes no longer; 0: not even one token."""
        if self.prompt_s > seconds:
            return 0
        if self.caption_s(most) <= seconds:
            return most
        return 1 + int((seconds - self.prompt_s) / self.token_s)
