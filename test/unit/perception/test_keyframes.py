# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Each key frame has its reason."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.perception.reasoning.keyframes import (
    APPEARED_TICKS,
    DRIFT_IN_SCALES,
    VANISHED_TICKS,
    Decision,
    KeyframePolicy,
    KeyframeSettings,
)
from vlm_perception.perception.vision.running_spread import (
    LEAST_SPREAD,
    REMEMBERED_STEPS,
    RunningSpread,
    cosine_distance,
)
from vlm_perception.perception.vision.temporal_state import (
    SCALE_IN_SPREADS,
    TemporalState,
    TrainingFreeAttention,
)
from vlm_perception.types import Embedding, Tag, Trigger

SECOND = 1_000_000_000
SETTINGS = KeyframeSettings(
    drift_threshold=0.1, max_age=2.0, min_interval=0.5, max_stamp_gap=5.0, force=False
)


def embedding(at_s: float, angle: float = 0.0, tags: str = "", vocabulary: int = 1) -> Embedding:
    return Embedding(
        stamp_ns=round(at_s * SECOND),
        frame_id="camera",
        sequence=0,
        run_id="",
        bundle_digest="a",
        image_size=(64, 36),
        grid_size=(16, 9),
        pooled=np.array([np.cos(angle), np.sin(angle)], np.float32),
        tokens=np.zeros((1, 1), np.float16),
        token_index=np.zeros(1, np.uint16),
        tags=tuple(Tag(0, label, 0.9) for label in tags),
        regions=(),
        vocabulary_version=vocabulary,
    )


class Gate:
    """The policy behind the training-free temporal state, as the reasoner has it."""

    def __init__(self, settings: KeyframeSettings) -> None:
        self._policy = KeyframePolicy(settings)
        self._state = TemporalState(2, TrainingFreeAttention())

    def decide(self, embedding: Embedding, version: int) -> Decision:
        self.attended = self._state.attend(embedding.pooled, embedding.stamp_ns)
        return self._policy.decide(embedding, self.attended, version)

    def set_anchor(self, embedding: Embedding, version: int) -> None:
        self._policy.set_anchor(embedding, self.attended, version)

    def ask(self) -> None:
        self._policy.ask()

    def reset(self) -> None:
        self._policy.reset()
        self._state.reset()


def anchored(settings: KeyframeSettings = SETTINGS) -> Gate:
    policy = Gate(settings)
    first = embedding(10.0)
    assert policy.decide(first, 0).trigger is Trigger.FIRST
    policy.set_anchor(first, 0)
    return policy


@pytest.mark.parametrize(
    ("then", "version", "trigger"),
    [
        (embedding(10.1), 0, Trigger.NONE),
        (embedding(11.9, angle=0.3), 0, Trigger.NONE),
        (embedding(10.6, angle=0.6), 0, Trigger.DRIFT),
        (embedding(10.1), 1, Trigger.INSTRUCTION),
        (embedding(12.0), 0, Trigger.AGE),
        (embedding(9.9), 0, Trigger.TIME_JUMP),
        (embedding(15.1), 0, Trigger.TIME_JUMP),
        # Without stamps no age is known, and an unknown age may be any.
        (embedding(0.0), 0, Trigger.AGE),
    ],
)
def test_what_makes_a_key_frame(then: Embedding, version: int, trigger: Trigger) -> None:
    decision = anchored().decide(then, version)
    assert decision.trigger is trigger
    assert decision.is_keyframe == (trigger is not Trigger.NONE)


def test_drift_waits_for_the_shortest_interval() -> None:
    policy = anchored()
    assert policy.decide(embedding(10.1, angle=1.0), 0).trigger is Trigger.NONE
    assert policy.decide(embedding(10.5, angle=1.0), 0).trigger is Trigger.DRIFT


def test_drift_is_the_cosine_distance_of_the_events() -> None:
    policy = anchored()
    anchor = policy.attended.event
    for step in range(1, 5):
        decision = policy.decide(embedding(10 + step / 30, angle=0.1 * step), 0)
        assert decision.drift == pytest.approx(1 - policy.attended.event @ anchor, abs=1e-6)
        assert 0 < decision.drift <= 1 - np.cos(0.1 * step)
        assert not decision.is_keyframe


def test_forced_and_reset() -> None:
    forced = anchored(KeyframeSettings(force=True))
    assert forced.decide(embedding(10.1), 0).trigger is Trigger.FORCED
    policy = anchored()
    policy.reset()
    assert policy.decide(embedding(3.0), 0).trigger is Trigger.TIME_JUMP


def test_a_conflict_asks_for_one_key_frame_when_the_anchor_is_old_enough() -> None:
    policy = anchored()
    policy.ask()
    assert policy.decide(embedding(10.1), 0).trigger is Trigger.NONE
    assert policy.decide(embedding(10.6), 0).trigger is Trigger.CONFLICT
    policy.set_anchor(embedding(10.6), 0)
    assert policy.decide(embedding(11.2), 0).trigger is Trigger.NONE


def test_a_looping_bag_jumps_once_a_round() -> None:
    policy = Gate(KeyframeSettings(max_age=100.0))
    triggers = []
    for _ in range(3):
        for step in range(5):
            seen = embedding(100 + step)
            triggers.append(policy.decide(seen, 0).trigger)
            if triggers[-1] is not Trigger.NONE:
                policy.set_anchor(seen, 0)
    assert [trigger for trigger in triggers if trigger is not Trigger.NONE] == [
        Trigger.FIRST,
        Trigger.TIME_JUMP,
        Trigger.TIME_JUMP,
    ]


def run(policy: Gate, frames: list[Embedding], version: int = 0) -> list[Trigger]:
    """The trigger of each frame, as the reasoner drives the policy."""
    triggers = []
    for frame in frames:
        decision = policy.decide(frame, version)
        triggers.append(decision.trigger)
        if decision.is_keyframe:
            policy.set_anchor(frame, version)
    return triggers


def test_a_tag_counts_when_it_has_lasted() -> None:
    def watch(tags: list[str]) -> list[Trigger]:
        policy = Gate(KeyframeSettings(max_age=100.0))
        frames = [embedding(1 + tick / 10, tags=each) for tick, each in enumerate(tags)]
        return run(policy, frames)

    appears = watch(["c"] + ["cp"] * (APPEARED_TICKS + 3))
    assert appears.index(Trigger.TAGS) == APPEARED_TICKS
    assert appears.count(Trigger.TAGS) == 1
    vanishes = watch(["cp"] + ["c"] * (VANISHED_TICKS + 3))
    assert vanishes.index(Trigger.TAGS) == VANISHED_TICKS
    flickers = watch(["c", *(["cp"] * (APPEARED_TICKS - 1) + ["c"]) * 9])
    assert Trigger.TAGS not in flickers


def test_tags_wait_for_the_shortest_interval_and_are_not_forgotten() -> None:
    policy = anchored(KeyframeSettings(min_interval=1.0, max_age=100.0))
    frames = [embedding(10 + tick / 10, tags="p") for tick in range(1, 12)]
    assert run(policy, frames).index(Trigger.TAGS) == 9


def test_a_new_vocabulary_is_no_event() -> None:
    policy = anchored(KeyframeSettings(max_age=100.0))
    frames = [embedding(10 + tick / 10, tags="xyz", vocabulary=2) for tick in range(1, 9)]
    assert set(run(policy, frames)) == {Trigger.NONE}
    frames = [embedding(11 + tick / 10, tags="xyzp", vocabulary=2) for tick in range(1, 9)]
    assert Trigger.TAGS in run(policy, frames)


@pytest.mark.parametrize("noise", [0.02, 0.06, 0.2])
def test_the_threshold_follows_what_is_usual(noise: float) -> None:
    """The same policy on a quiet and on a noisy stream: still in the noise, awake at an event."""
    angles = noise * np.random.default_rng(3).normal(size=100)
    policy = Gate(KeyframeSettings(max_age=100.0))
    quiet = [embedding(1 + tick / 10, angle) for tick, angle in enumerate(angles)]
    assert run(policy, quiet)[30:].count(Trigger.DRIFT) <= 2
    assert policy.decide(embedding(11.0, 9 * noise), 0).trigger is Trigger.DRIFT


def test_drift_about_its_threshold_does_not_make_each_frame_a_key_frame() -> None:
    steps = np.resize([0.0, 0.1], 200)
    frames = [embedding(1 + tick / 10, angle) for tick, angle in enumerate(steps)]
    assert set(run(Gate(KeyframeSettings(max_age=100.0)), frames[:64])[1:]) == {Trigger.NONE}
    # Then a camera that pans without end: spread follows, and there are pauses between key frames.
    panning = [embedding(21 + tick / 10, 0.1 * tick) for tick in range(100)]
    policy = Gate(KeyframeSettings(max_age=100.0))
    at = [tick for tick, trigger in enumerate(run(policy, panning)) if trigger is Trigger.DRIFT]
    assert at
    assert min(later - earlier for earlier, later in pairwise(at)) >= 2


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((0, 30, 100, 100, 100, 400, 900, 7000, -50, -3000)),
            st.floats(-3.2, 3.2),
            st.sampled_from(("", "p", "pc")),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.floats(0.0, 3.0),
    st.sampled_from((0.0, 0.2, 2.0)),
    st.floats(0.0, 5.0),
)
def test_the_anchor_never_grows_older_than_allowed(
    steps: list[tuple[int, float, str, bool]], max_age: float, drift: float, min_interval: float
) -> None:
    """Whatever stamps, embeddings and tags arrive: old or unknown age means a key frame."""
    policy = Gate(
        KeyframeSettings(drift_threshold=drift, max_age=max_age, min_interval=min_interval)
    )
    now, anchor_ns = 10_000, None
    for step_ms, angle, tags, stamped in steps:
        now = max(1, now + step_ms)
        frame = embedding(now / 1000 if stamped else 0.0, angle, tags=tags)
        if policy.decide(frame, 0).is_keyframe:
            policy.set_anchor(frame, 0)
            anchor_ns = frame.stamp_ns
        assert anchor_ns is not None
        if frame.stamp_ns != anchor_ns:
            assert frame.stamp_ns
            assert anchor_ns
            assert 0 < frame.stamp_ns - anchor_ns < max_age * SECOND


def test_the_spread_is_that_of_the_quiet_frames() -> None:
    rng = np.random.default_rng(5)
    spread, steps, previous = RunningSpread(), [], None
    assert spread.value == LEAST_SPREAD
    for tick in range(3 * REMEMBERED_STEPS):
        vector = rng.normal(0, 1 if tick % 5 == 0 else 0.02, 16).astype(np.float32)
        vector[0] += 1.0
        vector /= np.linalg.norm(vector)
        if previous is not None:
            steps.append(cosine_distance(previous, vector))
        spread.add(vector)
        previous = vector
    latest = steps[-REMEMBERED_STEPS:]
    assert spread.value == pytest.approx(np.median(latest), rel=1e-5)
    assert DRIFT_IN_SCALES * SCALE_IN_SPREADS * spread.value < 0.1 < max(latest)
    spread.reset()
    assert spread.value == LEAST_SPREAD
