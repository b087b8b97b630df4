# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A scene says what is known, how old it is and how far it may be trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.perception.fusion.arrival_monitor import ArrivalMonitor
from vlm_perception.perception.fusion.rules import Answer, Contradiction, Hazard, RuleError
from vlm_perception.perception.fusion.scene import FusionSettings, SceneFusion
from vlm_perception.types import Attribute, Embedding, Reasoning, Scene, Status, Tag

MS = 1_000_000
DAY = 86_400_000 * MS
NOW = 30 * DAY
SETTINGS = FusionSettings(
    stale_after=1.0,
    hazards=(Hazard.parse("pedestrian"), Hazard.parse("works | construction=yes")),
    contradictions=(Contradiction.parse("pedestrian=no | pedestrian"),),
    conflict_frames=2,
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
        vocabulary_version=3,
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
    assert scene.conflicts == ()
    assert scene.latency["capture_to_scene"] == pytest.approx(0.03)
    assert scene.latency["capture_to_embedding"] == pytest.approx(0.02)
    assert scene.latency["capture_to_reasoning"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("slow", "fast", "status", "word"),
    [
        (None, embedding(NOW), Status.NO_REASONING, "start language_reasoner"),
        (reasoning(NOW - 1200 * MS), embedding(NOW), Status.STALE_REASONING, "1.2 s old"),
        (reasoning(NOW, "b"), embedding(NOW), Status.NO_REASONING, "the same bundle"),
        (reasoning(NOW), embedding(NOW - 1500 * MS), Status.NO_REASONING, "1.5 s later"),
        (reasoning(0), embedding(0), Status.DEGRADED, "set header.stamp"),
        (replace(reasoning(NOW), rung=2), embedding(NOW), Status.DEGRADED, "level 2"),
        (reasoning(NOW + 3000 * MS), embedding(NOW + 3000 * MS), Status.DEGRADED, "3.0 s in the"),
        (reasoning(NOW), embedding(NOW + 3000 * MS), Status.STALE_REASONING, "3.0 s old"),
        (reasoning(NOW - 9000 * MS), embedding(NOW - 9000 * MS), Status.DEGRADED, "9.0 s old"),
        (reasoning(NOW - 9 * DAY), embedding(NOW - 9 * DAY), Status.DEGRADED, "9.0 days old"),
    ],
)
def test_status_and_why(slow: Reasoning | None, fast: Embedding, status: Status, word: str) -> None:
    scene = fuse(slow, fast)
    assert scene.status is status
    assert word in scene.reason


def test_ages_are_clamped_and_unknown_ones_negative() -> None:
    early = fuse(reasoning(NOW), embedding(NOW), now_ns=NOW - 500 * MS)
    assert early.embedding_age == pytest.approx(0.01), "the time since it came"
    assert early.reasoning_age == pytest.approx(0.05)
    unknown = fuse(reasoning(0), embedding(0))
    assert (unknown.embedding_age, unknown.reasoning_age, unknown.keyframe_age) == (-1, -1, -1)
    assert unknown.latency == {}
    alone = fuse(None, embedding(NOW))
    assert (alone.reasoning_age, alone.keyframe_stamp_ns) == (-1, 0)


def test_the_newest_reasoning_that_is_not_from_the_future_is_joined() -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    for age, caption in ((200, "right"), (50, "later"), (300, "old and late")):
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


def test_a_contradiction_that_lasts_is_a_conflict_and_the_tag_counts() -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    fusion.add_reasoning(reasoning(NOW), 49.9)
    untagged = replace(embedding(NOW), tags=())
    frames = [embedding(NOW), untagged, embedding(NOW), embedding(NOW), embedding(NOW), untagged]
    scenes = [fusion.fuse(frame, 50.0, NOW) for frame in frames]
    assert [len(scene.conflicts) for scene in scenes] == [0, 0, 0, 1, 1, 0]
    assert scenes[3].conflicts == scenes[4].conflicts, "the same sentence, to be told once"
    assert "pedestrian is said to be no" in scenes[3].conflicts[0]
    assert [scene.hazards for scene in scenes[3:]] == [("pedestrian",), ("pedestrian",), ()]


LABELS = ("car", "cone", "dog", "lorry")


@given(
    rules=st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from((None, "0", "1")))),
    tagged=st.lists(st.sampled_from(LABELS), unique=True),
    said=st.sampled_from("01"),
)
def test_hazards_are_named_in_the_order_that_the_message_promises(
    rules: list[tuple[str, str | None]], tagged: list[str], said: str
) -> None:
    """Those among the tags in their order, then those that are only answered as the rules go."""
    hazards = tuple(Hazard(label, Answer("q", value) if value else None) for label, value in rules)
    fusion = SceneFusion(FusionSettings(hazards=hazards), clock=Clock())
    answer = (Attribute("q", said, ("0", "1"), (0.5, 0.5)),)
    fusion.add_reasoning(replace(reasoning(NOW), attributes=answer), 50.0)
    tags = tuple(Tag(0, label, 0.9 - 0.1 * i) for i, label in enumerate(tagged))
    expected = [label for label in tagged if label in dict(rules)]
    for label, value in rules:
        if value == said and label not in expected:
            expected.append(label)
    frame = replace(embedding(NOW), tags=tags)
    assert list(fusion.fuse(frame, 50.0, NOW).hazards) == expected


def test_a_fresh_answer_adds_a_hazard_and_a_stale_one_does_not() -> None:
    works = (Attribute("construction", "yes", ("yes", "no"), (0.9, 0.1)),)
    for age_ms, hazards in ((200, ("pedestrian", "works")), (1200, ("pedestrian",))):
        slow = replace(reasoning(NOW - age_ms * MS), attributes=works)
        assert fuse(slow, embedding(NOW)).hazards == hazards


def test_an_image_is_late_by_a_clock_or_by_a_slow_encoder() -> None:
    frame = embedding(NOW - 3700 * MS)
    for spent_s, word in ((0.02, "set the camera's clock"), (3.5, "the encoder took 3.5 s")):
        fusion = SceneFusion(SETTINGS, clock=Clock())
        fusion.add_reasoning(reasoning(NOW - 3700 * MS), 49.95)
        scene = fusion.fuse(frame, 49.99, NOW, spent_s)
        assert word in scene.reason, scene.reason


@pytest.mark.parametrize("apart_ns", [-9 * DAY, 3000 * MS])
def test_a_wrong_clock_is_named_however_slow_the_encoder_is(apart_ns: int) -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    scene = fusion.fuse(embedding(NOW - 500 * MS + apart_ns), 49.99, NOW, spent_s=0.5)
    assert "set the camera's clock" in scene.reason and "the encoder took" not in scene.reason


def test_a_silence_tells_a_slow_encoder_from_a_dead_one() -> None:
    for spent_s, silent_s, slow in ((2.5, 2.1, True), (2.5, 9.0, False), (0.02, 2.1, False)):
        clock = Clock()
        fusion = SceneFusion(SETTINGS, clock=clock)
        fusion.fuse(embedding(NOW), clock.now, NOW, spent_s)
        scene = fusion.heartbeat(clock.now + silent_s, camera_alive=True)
        assert scene.status is Status.NO_EMBEDDING
        assert ("(the encoder took 2.5 s for the last one)" in scene.reason) is slow
        blind = fusion.heartbeat(clock.now + silent_s, camera_alive=False)
        assert blind.status is Status.NO_CAMERA and "the last one" not in blind.reason


STALE = (Status.STALE_REASONING, Status.NO_EMBEDDING, Status.NO_CAMERA)
WORKS = (Attribute("construction", "yes", ("yes", "no"), (0.9, 0.1)),)


@given(
    camera_ns=st.sampled_from((None, 0, -9 * DAY, -3000 * MS, -300 * MS, 5000 * MS, 9 * DAY)),
    ros_runs=st.booleans(),
    taken=st.lists(st.floats(0.0, 4.0), min_size=1, max_size=6),
    slow_s=st.lists(st.floats(0.0, 3.0), min_size=6, max_size=6),
    looks=st.lists(st.floats(0.0, 600.0), min_size=1, max_size=8),
    fast_dies_s=st.floats(0.0, 600.0),
)
def test_no_hazard_lives_on_a_stale_answer(
    camera_ns: int | None,
    ros_runs: bool,
    taken: list[float],
    slow_s: list[float],
    looks: list[float],
    fast_dies_s: float,
) -> None:
    """Of any clock of the camera (None: no stamps), silence and order of arrival."""
    clock = Clock()
    fusion = SceneFusion(SETTINGS, clock=clock)

    def stamp(at_s: float) -> int:
        return 0 if camera_ns is None else NOW + camera_ns + round(at_s * 1000) * MS

    heard: list[tuple[float, float]] = []
    # Arrival and capture, in seconds.
    answers = sorted((at + late, at) for at, late in zip(taken, slow_s, strict=False))
    for look_s in sorted([*looks, *(arrival for arrival, _ in answers)]):
        clock.now = look_s
        while answers and answers[0][0] <= look_s:
            arrival, at = answers.pop(0)
            fusion.add_reasoning(replace(reasoning(stamp(at)), attributes=WORKS), arrival)
            heard.append((arrival, at))
        if look_s <= fast_dies_s:
            now_ns = NOW + round(look_s * 1000) * MS if ros_runs else 0
            scene = fusion.fuse(embedding(stamp(look_s)), look_s, now_ns)
        else:
            scene = fusion.heartbeat(look_s, camera_alive=False)
        fresh = [
            look_s - arrival <= SETTINGS.stale_after + 1e-6
            and (camera_ns is None or look_s - at <= SETTINGS.stale_after + 0.002)
            for arrival, at in heard
        ]
        assert "works" not in scene.hazards or any(fresh), scene.reason
        if scene.attributes and "works" not in scene.hazards:
            assert scene.status in STALE and "reasoning" in scene.reason


@pytest.mark.parametrize("line", ["", "| a=b", "car |", "car | near", "car | =near"])
def test_a_rule_that_says_nothing_is_refused(line: str) -> None:
    with pytest.raises(RuleError):
        Hazard.parse(line)
    with pytest.raises(RuleError):
        Contradiction.parse(line)


def test_a_slow_path_that_falls_silent_is_noticed_by_its_own_rhythm() -> None:
    clock = Clock()
    fusion = SceneFusion(SETTINGS, clock=clock)
    for tick in range(10):
        fusion.add_reasoning(reasoning(NOW + 100 * tick * MS), 50.0 + 0.1 * tick)
    statuses = []
    for seconds in (0.3, 0.5):
        clock.now = 50.9 + seconds
        now_ns = NOW + round((0.9 + seconds) * 1000) * MS
        statuses.append(fusion.fuse(embedding(now_ns), clock.now, now_ns).status)
    assert statuses == [Status.OK, Status.STALE_REASONING]
    fusion.add_reasoning(reasoning(now_ns), clock.now)
    assert fusion.fuse(embedding(now_ns), clock.now, now_ns).status is Status.OK
    fusion.slow.gone = True
    assert fusion.fuse(embedding(now_ns), clock.now, now_ns).status is Status.STALE_REASONING


@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_order_of_arrival_does_not_matter(order: list[int], at: int) -> None:
    fusion = SceneFusion(SETTINGS, clock=Clock())
    for tick in order:
        fusion.add_reasoning(reasoning(NOW + tick * MS, caption=str(tick)), 49.9)
    scene = fusion.fuse(embedding(NOW + at * MS), 49.9, NOW + at * MS)
    assert scene.caption == str(min(at, 5))


def test_cadence_learns_the_rate_and_forgets_it_after_a_silence() -> None:
    cadence = ArrivalMonitor()
    assert cadence.silence(0.0) == float("inf")
    for tick in range(20):
        cadence.arrived(tick / 30)
    last = 19 / 30
    assert cadence.missing_after(2.0) == pytest.approx(0.3)
    assert not cadence.missing(last + 0.29, 2.0) and cadence.missing(last + 0.31, 2.0)
    assert cadence.missing_after(0.1) == 0.1, "never later than it was told"
    cadence.arrived(last + 1.0)
    assert cadence.missing_after(2.0) == 2.0, "another rate may have begun"
    for tick in range(2, 30):
        cadence.arrived(last + tick)
    assert cadence.missing_after(9.0) == pytest.approx(4.0)


def test_a_heartbeat_repeats_the_header_and_grows_older() -> None:
    fusion = SceneFusion(SETTINGS, "fusion", clock=Clock())
    nothing = fusion.heartbeat(50.0, camera_alive=False)
    assert (nothing.status, nothing.stamp_ns, nothing.embedding_age) == (Status.NO_CAMERA, 0, -1)
    assert "yet" in nothing.reason
    fusion.add_reasoning(reasoning(NOW - 200 * MS), 49.9)
    scene = fusion.fuse(embedding(NOW), 50.0, NOW)
    early = fusion.heartbeat(50.7, camera_alive=False)
    late = fusion.heartbeat(52.5, camera_alive=True)
    assert (early.status, early.reason) == (scene.status, scene.reason)
    assert early.latency == {} != scene.latency
    assert late.status is Status.NO_EMBEDDING
    assert late.reason.startswith("no embedding for 2.5 s: see what vision_encoder")
    assert "; no reasoning for 2.6 s: " in late.reason, "said beside the status"
    told = fusion.heartbeat(52.5, camera_alive=False, issue="start the camera")
    assert told.reason.startswith("no image for 2.5 s: start the camera")
    assert (late.stamp_ns, late.frame_id) == (scene.stamp_ns, scene.frame_id)
    assert late.embedding_age == pytest.approx(2.5)
    assert late.reasoning_age == pytest.approx(2.7)
    fusion.add_reasoning(reasoning(NOW, caption="the same image"), 50.8)
    assert fusion.heartbeat(50.9, camera_alive=True).caption == "the same image"
    assert fusion.heartbeat(52.5, camera_alive=False).status is Status.NO_CAMERA
    assert late.sequence == early.sequence + 1 == scene.sequence + 2
    before = fusion.heartbeat(52.9, camera_alive=True).sequence
    fusion.reset()
    empty = fusion.heartbeat(53.0, camera_alive=True)
    assert (empty.stamp_ns, empty.frame_id, empty.bundle_digest) == (0, "", "")
    assert (empty.image_size, empty.vocabulary_version, empty.instruction_version) == ((0, 0), 0, 0)
    assert empty.sequence == before + 1, "a jump leaves no gap"
