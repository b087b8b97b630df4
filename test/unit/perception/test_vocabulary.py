# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of labels: probabilities, their log-odds where those round to 0 or 1, and thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.vision.vocabulary import Vocabulary


def vocabulary(
    exclusive: bool, scale: float, bias: float, thresholds: tuple[float, ...] = (0.5, 0.5, 1.0)
) -> Vocabulary:
    count = len(thresholds)
    return Vocabulary(
        version=1,
        labels=tuple("abc"[:count]),
        embeddings=np.eye(4, dtype=np.float32)[:count],
        thresholds=np.array(thresholds, np.float32),
        region_thresholds=np.full(count, 0.5, np.float32),
        scales=np.full(count, scale, np.float32),
        biases=np.full(count, bias, np.float32),
        exclusive=exclusive,
    )


@given(st.booleans(), st.floats(1.0, 20.0), st.integers(0, 1000))
def test_log_odds_are_those_of_the_probabilities(exclusive: bool, scale: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = vocabulary(exclusive, scale, 0.0)
    chances = labels.probabilities(vectors).astype(np.float64)
    odds = labels.log_odds(vectors)
    inner = (chances > 1e-6) & (chances < 1 - 1e-4)
    likely = chances[inner]
    assert odds[inner] == pytest.approx(np.log(likely / (1 - likely)), abs=2e-2)


@pytest.mark.parametrize("exclusive", [False, True])
def test_log_odds_go_on_where_probabilities_are_0_or_1(exclusive: bool) -> None:
    vectors = np.array([[1, 0, 0, 0], [0.9, 0, 0, 0.43]], np.float32)
    labels = vocabulary(exclusive, 100.0, 0.0)
    assert (labels.probabilities(vectors)[:, 0] == 1.0).all()
    odds = labels.log_odds(vectors)
    assert odds[0, 0] - odds[1, 0] == pytest.approx(10.0, abs=1e-3)


def test_a_threshold_of_1_is_never_reached_and_tiny_ones_are() -> None:
    labels = vocabulary(False, 100.0, 0.0)
    sure = labels.probabilities(np.ones((1, 4), np.float32))[0]
    assert (sure == 1.0).all()
    assert labels.hold(sure).tolist() == [True, True, False]
    assert (labels.margins(sure) >= 0.0).tolist() == [True, True, False]
    # As SigLIP's, whose bias is -16.
    rare = vocabulary(False, 1.0, -20.0, (1e-9, 3e-9))
    chances = rare.probabilities(np.zeros((1, 4), np.float32))[0]
    assert rare.hold(chances).tolist() == [True, False]
    assert (rare.margins(chances) >= 0.0).tolist() == [True, False]
