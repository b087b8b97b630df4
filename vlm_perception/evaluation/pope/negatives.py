# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Which absent labels are asked for: at random, the popular ones, those that go with what is there.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models (EMNLP 2023), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RANDOM, POPULAR, ADVERSARIAL = SPLITS = ("random", "popular", "adversarial")

Labels = NDArray[np.int64]
"""Indices of labels."""


class LabelCounts:
    """How many images of a set show each label, and each two together."""

    def __init__(self, images: Sequence[Labels], labels: int) -> None:
        """Count.

        Args:
            images: the labels that each shows, each once.
            labels: how many there are.
        """
        self._together = np.zeros((labels, labels), np.int64)
        for here in images:
            self._together[np.ix_(here, here)] += 1

    def ordered(self, split: str, here: Labels, absent: Labels, rng: np.random.Generator) -> Labels:
        """Labels that an image does not show, the one to ask for first.

        Args:
            split: RANDOM; POPULAR, by how many images show a label; ADVERSARIAL, by the share of
                images with each of `here` that show it, too, on average.
            here: the labels that the image shows, one or more.
            absent: those that it does not.
            rng: draws the random ones, and decides ties.
        """
        chance = rng.random(len(absent))
        images = self._together.diagonal()
        if split == RANDOM:
            score = chance
        elif split == POPULAR:
            score = images[absent].astype(np.float64)
        else:
            score = (self._together[np.ix_(absent, here)] / images[here]).mean(axis=1)
        order: Labels = np.lexsort((chance, score))[::-1]
        return np.asarray(absent[order], np.int64)
