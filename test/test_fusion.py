# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A scene says what is known, how old it is and how far it may be trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlm_perception.perception.fusion import Contradiction, FusionSettings, SceneFusion
from vlm_perception.types import Attribute, Embedding, Reasoning, Scene, Status, Tag

MS = 1_000_000
NOW = 1_000_000 * MS
SETTINGS = FusionSettings(
    stale_after=1.0,
    hazards=("pedestrian",),
    contradictions=(Contradiction("pedestrian", "no", "pedestrian"),),
)


class Clock:
    """Monotonic seconds, set by the test."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def embedding(stamp_ns: int, digest: str = "a") -> Embedding:
    return Embedding(
        stamp_ns=stamp_ns,
        frame_id="camera",
        sequence=0,
        run_id="encoder",
        bundle_digest=digest,
        image_size=(1280, 720),
        grid_size=(16, 9),
        pooled=np.ones(1, np.float32),
        tokens=np.zeros((1, 1), np.float16),
        token_index=np.zeros(1, np.uint16),
        tags=(Tag(0, "pedestrian", 0.9), Tag(1, "car", 0.8)),
        regions=(),
        vocabulary_version=3,
    )


def reasoning(stamp_ns: int, digest: str = "a", caption: str = "a street") -> Reasoning:
    return Reasoning(
        stamp_ns=stamp_ns,
        frame_id="camera",
        run_id="reasoner",
        bundle_digest=digest,
        keyframe_stamp_ns=max(0, stamp_ns - 500 * MS) if stamp_ns else 0,
        is_keyframe=False,
        trigger="none",
        drift=0.0,
        caption=caption,
        attributes=(Attribute("pedestrian", "no", ("yes", "no"), (0.2, 0.8)),),
        instruction="",
        instruction_version=2,
        rung=0,
    )


def fuse(slow: Reasoning | None, fast: Embedding, now_ns: int = NOW) -> Scene:
    fusion = SceneFusion(SETTINGS, "fusion", clock=Clock())
    if slow is not None:
        fusion.add_reasoning(slow, 49.95)
    return fusion.fuse(fast, 49.99, now_ns)


def test_both_paths_are_joined_with_their_ages() -> None:
    scene = fuse(reasoning(NOW - 200 * MS), embedding(NOW - 30 * MS))
    assert (scene.status, scene.reason) == (Status.OK, "")
    assert scene.embedding_age == pytest.approx(0.03)
    assert scene.reasoning_age == pytest.approx(0.2)
    assert scene.keyframe_age == pytest.approx(0.7)
    assert scene.caption == "a street"
    assert (scene.vocabulary_version, scene.instruction_version) == (3, 2)
    assert (scene.stamp_ns, scene.frame_id, scene.run_id) == (NOW - 30 * MS, "camera", "fusion")
    assert scene.hazards == ("pedestrian",)
    assert scene.conflicts == ("pedestrian is tagged, and pedestrian is said to be no",)
    assert scene.latency["capture_to_scene"] == pytest.approx(0.03)
    assert scene.latency["capture_to_embedding"] == pytest.approx(0.02)
    assert scene.latency["capture_to_reasoning"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("slow", "fast", "status", "word"),
    [
        (None, embedding(NOW), Status.NO_REASONING, "no reasoning"),
        (reasoning(NOW - 1200 * MS), embedding(NOW), Status.STALE_REASONING, "1.2 s old"),
        (reasoning(NOW, "b"), embedding(NOW), Status.NO_REASONING, "bundle b"),
        (reasoning(0), embedding(0), Status.DEGRADED, "no time stamps"),
        (replace(reasoning(NOW), rung=2), embedding(NOW), Status.DEGRADED, "rung 2"),
    ],
)
def test_status_and_why(slow: Reasoning | None, fast: Embedding, status: Status, word: str) -> None:
    scene = fuse(slow, fast)
    assert scene.status is status
    assert word in scene.reason


def test_ages_are_clamped_and_unknown_ones_negative() -> None:
    early = fuse(reasoning(NOW), embedding(NOW), now_ns=NOW - 500 * MS)
    assert (early.embedding_age, early.reasoning_age) == (0.0, 0.0)
    unknown = fuse(reasoning(0), embedding(0))
    assert (unknown.embedding_age, unknown.reasoning_age, unknown.keyframe_age) == (-1, -1, -1)
    assert unknown.latency == {}
    alone = fuse(None, embedding(NOW))
    assert (alone.reasoning_age, alone.keyframe_stamp_ns) == (-1, 0)


def test_the_newest_reasoning_that_is_not_from_the_future_is_joined() -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    for age, caption in ((300, "old"), (200, "right"), (50, "later")):
        fusion.add_reasoning(reasoning(NOW - age * MS, caption=caption), 49.0)
    assert fusion.fuse(embedding(NOW - 100 * MS), 49.0, NOW).caption == "right"


def test_after_a_jump_back_the_old_future_is_forgotten() -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    fusion.add_reasoning(reasoning(NOW), 49.0)
    assert fusion.fuse(embedding(NOW), 49.0, NOW).status is Status.OK
    early = NOW - 20_000 * MS
    assert fusion.fuse(embedding(early), 49.0, early).status is Status.NO_REASONING
    fusion.fuse(embedding(NOW), 49.0, NOW)
    assert fusion.fuse(embedding(NOW), 49.0, NOW).status is Status.NO_REASONING


def test_a_heartbeat_repeats_the_header_and_grows_older() -> None:
    fusion = SceneFusion(SETTINGS, "fusion", clock=Clock())
    nothing = fusion.heartbeat(50.0, camera_alive=False)
    assert (nothing.status, nothing.stamp_ns, nothing.embedding_age) == (Status.NO_CAMERA, 0, -1)
    assert "yet" in nothing.reason
    fusion.add_reasoning(reasoning(NOW - 200 * MS), 49.9)
    scene = fusion.fuse(embedding(NOW), 50.0, NOW)
    early = fusion.heartbeat(50.9, camera_alive=False)
    late = fusion.heartbeat(52.5, camera_alive=True)
    assert (early.status, early.reason) == (scene.status, scene.reason)
    assert late.status is Status.NO_EMBEDDING
    assert late.reason == "no embedding for 2.5 s"
    assert (late.stamp_ns, late.frame_id) == (scene.stamp_ns, scene.frame_id)
    assert late.embedding_age == pytest.approx(2.5)
    assert late.reasoning_age == pytest.approx(2.7)
    assert fusion.heartbeat(52.5, camera_alive=False).status is Status.NO_CAMERA
    assert late.sequence == early.sequence + 1 == scene.sequence + 2
    fusion.reset()
    assert fusion.heartbeat(53.0, camera_alive=True).stamp_ns == 0
