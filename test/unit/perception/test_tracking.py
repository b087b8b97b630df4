# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Objects keep their ids from frame to frame until they are lost, whatever is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.messages.tables import MOST_LOCATED
from vlm_perception.perception.locating.tracking import (
    LOST_AFTER_S,
    MOST_FOLLOWED,
    SAME_OVERLAP,
    UNSEEN_S,
    Tracker,
    overlap,
)
from vlm_perception.types import Followed, LocatedBox, LocatedObject

TICK_S = 0.1


def box(x: float, y: float = 100.0, side: float = 40.0, score: float = 0.9) -> LocatedBox:
    return LocatedBox(x, y, side, side, score)


BOXES = st.builds(
    LocatedBox,
    st.floats(0.0, 600.0),
    st.floats(0.0, 300.0),
    st.floats(1.0, 300.0),
    st.floats(1.0, 300.0),
    st.floats(0.0, 1.0),
)
FRAMES = st.lists(
    st.tuples(
        st.lists(BOXES, max_size=12),
        st.sampled_from(["run", "run", "run", "another"]),
        st.integers(0, 9),
        st.booleans(),
    ),
    max_size=12,
)


class Stream:
    """Frames of one run, a tick apart."""

    def __init__(self) -> None:
        self.tracker, self.ticks, self.run_id = Tracker(), 0, "run"

    @property
    def now_s(self) -> float:
        return self.ticks * TICK_S

    def follow(self, *boxes: LocatedBox, phrase: str = "the car") -> tuple[int, ...]:
        thing = phrase.removeprefix("the ")
        return self.tracker.follow(
            phrase, thing, boxes, run_id=self.run_id, found_s=self.now_s, now_s=self.now_s
        )

    def see(self, *boxes: LocatedBox, stamp: int | None = None) -> tuple[LocatedObject, ...]:
        self.ticks += 1
        stamp_ns = self.ticks if stamp is None else stamp
        return self.tracker.update(
            {"car": boxes}, run_id=self.run_id, stamp_ns=stamp_ns, now_s=self.now_s
        )


def states(objects: Sequence[LocatedObject]) -> dict[int, Followed]:
    return {each.id: each.state for each in objects}


def test_two_that_meet_keep_their_ids_and_a_third_is_not_followed() -> None:
    stream = Stream()
    left, right = stream.follow(box(0.0), box(300.0))
    for step in range(1, 12):
        seen = stream.see(box(300.0 - 8 * step), box(8.0 * step), box(500.0))
        assert [each.id for each in seen] == [left, right]
        assert [each.box.x for each in seen] == [8 * step, 300 - 8 * step]
    assert stream.follow(box(88.0)) == (left,), "who is followed already keeps the id"
    assert stream.follow(box(88.0), phrase="the taxi") != (left,)


def test_what_is_hidden_for_a_moment_is_found_again_and_then_lost() -> None:
    stream = Stream()
    (number,) = stream.follow(box(100.0))
    for _ in range(5):
        assert states(stream.see()) == {number: Followed.MISSED}
    assert states(stream.see(box(120.0))) == {number: Followed.FOUND}
    missed = []
    while states(last := stream.see()) == {number: Followed.MISSED}:
        missed.append(last[0].box)
    assert states(last) == {number: Followed.LOST}
    assert set(missed) == {box(120.0)} and len(missed) == round(LOST_AFTER_S / TICK_S)
    assert stream.see(box(120.0)) == () and len(stream.tracker) == 0


def test_nothing_outlives_its_run_or_a_jump_of_the_stamps() -> None:
    stream = Stream()
    (first,) = stream.follow(box(0.0))
    stream.see(box(0.0), stamp=50)
    assert states(stream.see(box(0.0), stamp=0)) == {first: Followed.FOUND}, "0 is unknown"
    assert states(stream.see(box(0.0), stamp=49)) == {first: Followed.LOST}
    (second,) = stream.follow(box(0.0))
    stream.run_id = "another"
    assert states(stream.see(box(0.0))) == {second: Followed.LOST}
    (third,) = stream.follow(box(0.0))
    stream.run_id = "a third one"
    (fourth,) = stream.follow(box(0.0))
    assert states(stream.see(box(0.0))) == {third: Followed.LOST, fourth: Followed.FOUND}
    assert stream.tracker.expire(stream.now_s + UNSEEN_S)[0].state is Followed.LOST
    assert stream.tracker.expire(stream.now_s + 2 * UNSEEN_S) == ()


def test_the_newest_are_followed_when_there_are_too_many() -> None:
    stream = Stream()
    first = stream.follow(*(box(50.0 * i, 0.0) for i in range(MOST_FOLLOWED + 2)))
    assert first[-2:] == (0, 0) and len(set(first[:-2])) == MOST_FOLLOWED
    (last,) = stream.follow(box(0.0, 300.0))
    seen = states(stream.see())
    assert seen[first[0]] is Followed.LOST and seen[last] is Followed.MISSED
    assert len(stream.tracker) == MOST_FOLLOWED


def test_an_answer_about_an_earlier_run_loses_nothing() -> None:
    stream = Stream()
    stream.follow(box(0.0))
    stream.see(box(0.0))
    late = {"run_id": "an earlier one", "found_s": stream.now_s - 1.0, "now_s": stream.now_s}
    assert stream.tracker.follow("the car", "car", [box(0.0)], **late) == (0,)
    assert states(stream.see(box(0.0))) == {1: Followed.FOUND}


def test_what_a_slow_answer_found_is_looked_for_where_it_may_be_by_now() -> None:
    stream = Stream()
    stream.ticks = 60
    of = {"run_id": "run", "found_s": stream.now_s - UNSEEN_S - 1.0, "now_s": stream.now_s}
    (number,) = stream.tracker.follow("the car", "car", [box(0.0)], **of)
    assert stream.tracker.expire(stream.now_s + TICK_S) == (), "it was not looked for yet"
    assert states(stream.see(box(60.0))) == {number: Followed.FOUND}, "beyond a fresh box's gate"


def test_a_slow_camera_loses_nothing_for_a_single_miss() -> None:
    stream = Stream()
    (number,) = stream.follow(box(0.0))
    for boxes, state in (([], Followed.MISSED), ([box(0.0)], Followed.FOUND)) * 2:
        stream.ticks += round(0.9 * UNSEEN_S / TICK_S)
        assert stream.tracker.expire(stream.now_s) == ()
        assert states(stream.see(*boxes)) == {number: state}


def test_however_many_are_lost_at_once_each_message_can_be_read() -> None:
    stream = Stream()
    for y in (0.0, 100.0, 200.0):
        stream.follow(*(box(50.0 * i, y) for i in range(20)))
    lost = set[int]()
    for _ in range(9):
        told = stream.tracker.expire(stream.now_s + UNSEEN_S)
        assert len(told) <= MOST_LOCATED
        lost |= {each.id for each in told if each.state is Followed.LOST}
    assert len(lost) == 3 * MOST_FOLLOWED and told == ()


@given(st.lists(BOXES, max_size=20), FRAMES)
def test_whatever_is_found(
    asked: list[LocatedBox], frames: list[tuple[list[LocatedBox], str, int, bool]]
) -> None:
    stream = Stream()
    given_ids, lost = set(stream.follow(*asked)) - {0}, set[int]()
    for boxes, run_id, stamp, follows in frames:
        stream.run_id = run_id
        if follows:
            given_ids |= set(stream.follow(*boxes)) - {0}
        seen = stream.see(*boxes, stamp=stamp)
        assert [each.id for each in seen] == sorted({each.id for each in seen})
        found = [each.box for each in seen if each.state is Followed.FOUND]
        assert all(each in boxes for each in found)
        assert len(found) <= len(boxes), "no box belongs to two objects of a phrase"
        assert not lost & {each.id for each in seen}, "what is lost does not come again"
        lost |= {each.id for each in seen if each.state is Followed.LOST}
        here = {each.id for each in seen} - lost
        assert here <= given_ids and len(here) == len(stream.tracker) <= MOST_FOLLOWED


@given(BOXES, BOXES)
def test_overlap_is_a_share_of_both(one: LocatedBox, other: LocatedBox) -> None:
    assert overlap(one, other) == overlap(other, one) <= 1.0 + 1e-9
    assert overlap(one, one) > 1.0 - 1e-9 > SAME_OVERLAP
    assert overlap(one, replace(one, x=one.x + one.width)) == 0.0
