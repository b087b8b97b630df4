# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language node's parameters that affect its results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasonerSettings:
    """How often and how much to analyse; times in seconds, those of key frames by stamps."""

    drift_threshold: float = 0.0
    max_keyframe_age: float = 1.0
    min_keyframe_interval: float = 0.0
    max_caption_tokens: int = 40
    max_caption_s: float = 0.0
    """0: as long as a whole caption may take, by what one was measured to take."""
    temperature: float = 0.0
    """Of captions, free answers and descriptions, as `top_p` and `seed` are; 0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    max_stamp_gap: float = 5.0
    force_keyframes: bool = False
    confidence_floor: float = 0.0
    """Probability below which the likeliest choice is not given as an attribute's value."""
    keep_questions: tuple[str, ...] = ()
    """Names of those that a level with fewer questions asks; none: the first half."""
