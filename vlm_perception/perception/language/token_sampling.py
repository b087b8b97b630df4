# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""How the next token of a text is chosen: the likeliest one, or one drawn at random from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """Rules for free texts; by default a text is decoded greedily.

    Nucleus sampling: Holtzman et al., "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    temperature: float = 0.0
    """Divides the scores: above 1 the likely and the unlikely come closer; 0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability take part."""
    seed: int = 0
    """Each text starts with it again: the same frame and prompt then give the same text."""

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Chances of being drawn, [vocabulary], for scores [vocabulary]; the temperature is not 0.

        Equals the warpers of transformers, temperature first.
        """
        scores = (logits - logits.max()).astype(np.float64) / self.temperature
        chances = np.exp(scores)
        chances /= chances.sum()
        rising = np.argsort(chances, kind="stable")
        left_out = rising[np.cumsum(chances[rising]) <= 1.0 - self.top_p]
        # The likeliest one stays, whatever top_p is.
        chances[left_out[left_out != rising[-1]]] = 0.0
        return np.asarray(chances / chances.sum(), np.float64)


GREEDY = Sampling()


class TokenChooser:
    """Chooses the tokens of one text."""

    def __init__(self, sampling: Sampling) -> None:
        """Begin with the seed."""
        self._sampling = sampling
        self._generator = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Index of the next token, for scores [vocabulary]."""
        if self._sampling.temperature == 0.0:
            return int(logits.argmax())
        passed = np.cumsum(self._sampling.probabilities(logits))
        # The last sum may be a rounding below 1.
        return int(np.searchsorted(passed, self._generator.random() * passed[-1], side="right"))


@dataclass(frozen=True)
class Token:
    """One token of a text as it is generated."""

    index: int
    stops: bool
    """Whether it ends the text."""
    logits: NDArray[np.float32]
    """[vocabulary], the model's scores for this place."""

    @property
    def log_probability(self) -> float:
        """Natural logarithm of the probability that the model gives the token."""
        top = float(self.logits.max())
        total = float(np.exp(self.logits - top).sum(dtype=np.float64))
        return float(self.logits[self.index]) - top - math.log(total)
