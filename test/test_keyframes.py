# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Each key frame has its reason."""

from __future__ import annotations

import numpy as np
import pytest

from vlm_perception.perception.keyframes import KeyframePolicy, KeyframeSettings
from vlm_perception.types import Embedding, Trigger

SECOND = 1_000_000_000
SETTINGS = KeyframeSettings(
    drift_threshold=0.1, max_age=2.0, min_interval=0.5, max_stamp_gap=5.0, force=False
)


def embedding(at_s: float, angle: float = 0.0, digest: str = "a") -> Embedding:
    return Embedding(
        stamp_ns=round(at_s * SECOND),
        frame_id="camera",
        sequence=0,
        run_id="",
        bundle_digest=digest,
        image_size=(64, 36),
        grid_size=(16, 9),
        pooled=np.array([np.cos(angle), np.sin(angle)], np.float32),
        tokens=np.zeros((1, 1), np.float16),
        token_index=np.zeros(1, np.uint16),
        tags=(),
        regions=(),
        vocabulary_version=1,
    )


def anchored(settings: KeyframeSettings = SETTINGS) -> KeyframePolicy:
    policy = KeyframePolicy(settings)
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
        (embedding(10.1, digest="b"), 0, Trigger.BUNDLE),
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


def test_drift_is_the_cosine_distance_from_the_anchor() -> None:
    policy = anchored()
    for step in range(1, 5):
        decision = policy.decide(embedding(10 + step / 30, angle=0.1 * step), 0)
        assert decision.drift == pytest.approx(1 - np.cos(0.1 * step), abs=1e-6)
        assert not decision.is_keyframe


def test_forced_and_reset() -> None:
    forced = anchored(KeyframeSettings(force=True))
    assert forced.decide(embedding(10.1), 0).trigger is Trigger.FORCED
    policy = anchored()
    policy.reset(Trigger.TIME_JUMP)
    assert policy.decide(embedding(3.0), 0).trigger is Trigger.TIME_JUMP


def test_a_looping_bag_jumps_once_a_round() -> None:
    policy = KeyframePolicy(KeyframeSettings(max_age=100.0))
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
