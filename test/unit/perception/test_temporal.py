# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The temporal state: it averages noise away, lets events pass, and forgets when time jumps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.renderer import render
from vlm_perception.datasets.roadworld.sampling import sample_scene
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.temporal_state import (
    DEAD_BAND,
    HORIZON_S,
    LONGEST_GAP_S,
    SLOTS,
    TEMPERATURE_IN_SPREADS,
    TemporalState,
    TrainingFreeAttention,
)
from vlm_perception.perception.vision.vocabulary import Vocabulary
from vlm_perception.types import Embedding, Frame

WIDTH = 32
TICK_NS = 33_000_000
START_NS = 1_000_000_000
Vector = NDArray[np.float32]


def stream(count: int, *, noise: float = 0.1, axis: int = 0, seed: int = 1) -> list[Vector]:
    """Normalised vectors about one axis."""
    vectors = noise * np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    vectors[:, axis] += 1.0
    return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def fresh_state() -> TemporalState:
    return TemporalState(WIDTH, TrainingFreeAttention())


def attend_all(vectors: list[Vector], state: TemporalState | None = None) -> list[Vector]:
    state = state or fresh_state()
    return [state.attend(each, START_NS + TICK_NS * i).state for i, each in enumerate(vectors)]


def reference(vectors: list[Vector]) -> Vector:
    """The formula over the whole history, without a ring."""
    now = np.stack(vectors).astype(np.float64)
    steps = [1 - a @ b for a, b in pairwise(now)]
    ages = np.arange(len(now))[::-1] * TICK_NS * 1e-9
    distances = 1 - now @ now[-1]
    scores = -((ages / HORIZON_S) ** 2)
    scores -= distances / (TEMPERATURE_IN_SPREADS * np.median(steps[-64:]))
    state = np.exp(scores) @ now
    return np.asarray(state / np.linalg.norm(state), np.float32)


@pytest.mark.parametrize("count", [2, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS + 7])
def test_attention_over_the_ring_is_attention_over_the_past(count: int) -> None:
    vectors = stream(count)
    np.testing.assert_allclose(attend_all(vectors)[-1], reference(vectors), atol=1e-4)


def test_noise_is_averaged_away_and_the_state_is_normalised() -> None:
    vectors = stream(60)
    states = attend_all(vectors)
    np.testing.assert_allclose(np.linalg.norm(states, axis=1), 1.0, atol=1e-5)
    axis = np.eye(WIDTH, dtype=np.float32)[0]
    raw = np.mean([1 - vector @ axis for vector in vectors[30:]])
    steady = np.mean([1 - state @ axis for state in states[30:]])
    assert steady < 0.3 * raw


def test_an_event_passes_at_once() -> None:
    before, after = stream(60, noise=0.03), stream(3, noise=0.03, axis=1, seed=2)
    states = attend_all(before + after)
    for seen, state in zip(after, states[60:], strict=True):
        assert 1 - float(seen @ state) < 0.1
        assert abs(float(state[0])) < 0.3


@pytest.mark.parametrize("jump_ns", [-1, round(1.01e9 * LONGEST_GAP_S)])
def test_a_jump_of_time_leaves_no_trace(jump_ns: int) -> None:
    state = fresh_state()
    attend_all(stream(20), state)
    last_ns = START_NS + TICK_NS * 19
    other = stream(1, seed=9)[0]
    np.testing.assert_allclose(state.attend(other, last_ns + jump_ns).state, other, atol=1e-6)
    fresh = fresh_state()
    fresh.attend(other, START_NS)
    following = stream(5, seed=10)
    for i, vector in enumerate(following, start=1):
        np.testing.assert_allclose(
            state.attend(vector, last_ns + jump_ns + i * TICK_NS).state,
            fresh.attend(vector, START_NS + i * TICK_NS).state,
            atol=1e-6,
        )


def test_without_a_stamp_each_embedding_stands_for_itself() -> None:
    state = fresh_state()
    for vector in stream(5):
        np.testing.assert_allclose(state.attend(vector, 0).state, vector, atol=1e-6)


def test_a_broken_embedding_does_not_stay_in_the_memory() -> None:
    state = fresh_state()
    attend_all(stream(5), state)
    broken = np.full(WIDTH, np.nan, np.float32)
    assert np.isnan(state.attend(broken, START_NS + 5 * TICK_NS).state).all()
    assert np.isfinite(state.attend(stream(1)[0], START_NS + 6 * TICK_NS).state).all()


def vocabulary(version: int = 1, threshold: float = 0.5) -> Vocabulary:
    return Vocabulary(
        version=version,
        labels=("a", "b"),
        embeddings=np.eye(2, WIDTH, dtype=np.float32),
        thresholds=np.full(2, threshold, np.float32),
        region_thresholds=np.full(2, 0.5, np.float32),
        scales=np.ones(2, np.float32),
        biases=np.zeros(2, np.float32),
        exclusive=False,
    )


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_a_label_keeps_its_state_within_the_band(threshold: float) -> None:
    words, state = vocabulary(threshold=threshold), fresh_state()
    centre = np.log(threshold / (1 - threshold))

    def read(margin: float) -> list[bool]:
        score = 1 / (1 + np.exp(-(centre + margin)))
        found: list[bool] = state.present(np.array([score, 0.0], np.float32), words).tolist()
        return found

    inside, beyond = 0.9 * DEAD_BAND, 1.1 * DEAD_BAND
    said = [read(m)[0] for m in (-inside, inside, beyond, -inside, -beyond, inside, beyond)]
    assert said == [False, False, True, True, False, False, True]
    words = vocabulary(version=2, threshold=threshold)
    assert not read(-0.1)[0], "other labels begin at their thresholds"
    assert read(beyond)[0]
    state.reset()
    assert not read(-0.1)[0]


@pytest.mark.slow
def test_tags_of_a_flickering_scene_keep_still() -> None:
    """A scene that stands still under a camera whose exposure hunts."""
    nano = ModelBundle.load("roadworld-nano")
    world = sample_scene(6_000_000)
    gains = np.exp(0.08 * np.random.default_rng(0).normal(size=40))
    frames = []
    for tick, gain in enumerate(gains):
        image = np.clip(render(world, tick / 1000, 640, 360).image * gain, 0, 255)
        frames.append(Frame(image.astype(np.uint8), START_NS + TICK_NS * tick))

    def watch(encoder: VisionEncoder) -> list[Embedding]:
        return [encoder.encode(frame, tick) for tick, frame in enumerate(frames)]

    def flips(seen: list[Embedding]) -> int:
        labels = [{tag.label for tag in each.tags} for each in seen]
        return sum(len(now ^ then) for then, now in pairwise(labels))

    steady, alone = watch(VisionEncoder(nano)), watch(VisionEncoder(nano, temporal=False))
    assert flips(alone) >= 5, "the scene must flicker for the test to say anything"
    assert flips(steady) < 0.5 * flips(alone)
    assert [tag.label for tag in steady[0].tags] == [tag.label for tag in alone[0].tags]
    for one, other in zip(steady, alone, strict=True):
        np.testing.assert_array_equal(one.pooled, other.pooled)
