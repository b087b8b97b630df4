# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How soft prompts are learned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LearningSettings:
    """What a run is told; another one in the same folder is refused."""

    init: str = "a photo of a"
    """Words whose token embeddings the prompts begin as; as many tokens, as many prompts."""
    templates: tuple[str, ...] = ("a photo of a {label}.",)
    """Hand-written prompts: one view of each class."""
    steps: int = 1000
    batch: int = 32
    """Images of a step."""
    classes: int = 64
    """Classes that a step compares, at least those of its images."""
    rate: float = 2e-3
    contrast: float = 1.0
    matching: float = 1.0
    """Weights beside that of the classification; 0 leaves a loss out."""
    temperature: float = 0.1
    """Of the contrast."""
    decay: float = 0.9
    """Of the moving averages of gradients."""
    scenes: int = 2000
    """Of the road world."""
    seed: int = 0
