# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Answers to instructions follow from the truth, and the examination cannot be passed blindly."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.streets import PROPERTY, streets

from vlm_perception.datasets.roadworld.instructions import (
    INSTRUCTIONS,
    OBSTACLES,
    Instruction,
    agrees,
)
from vlm_perception.datasets.roadworld.truth import (
    PRESENT_SHARE,
    QUESTIONS,
    ObjectTruth,
    SceneTruth,
    presence_question,
)
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS

pytest.importorskip("sklearn")

from vlm_perception.evaluation.tasks import instructions as examination

NAMED: dict[str, Instruction] = {instruction.name: instruction for instruction in INSTRUCTIONS}

things = st.builds(
    ObjectTruth,
    st.sampled_from(OBJECT_LABELS),
    st.just((0, 0, 1, 1)),
    st.sampled_from((PRESENT_SHARE / 2, PRESENT_SHARE, 0.02)),
    st.just(1.0),
    st.floats(3, 80),
    st.floats(-6, 6),
)
scenes = st.builds(
    SceneTruth,
    st.lists(things, max_size=6).map(tuple),
    st.just({}),
    st.fixed_dictionaries(
        {name: st.sampled_from(choices) for name, (_, choices) in QUESTIONS.items()}
    ),
)


def test_each_wording_has_one_kind_and_is_no_question() -> None:
    wordings = [w for kind in INSTRUCTIONS for w in (*kind.wordings, *kind.held_out)]
    questions = [question for question, _ in QUESTIONS.values()]
    taken = [*wordings, *questions, *map(presence_question, LABELS)]
    assert not [wording for wording, times in Counter(taken).items() if times > 1]


def said(truth: SceneTruth) -> dict[str, str]:
    return {name: instruction.answer(truth) for name, instruction in NAMED.items()}


def mirrored(text: str) -> str:
    other = {"left": "right", "right": "left"}
    return re.sub("left|right", lambda found: other[found[0]], text)


@PROPERTY
@given(scenes)
def test_a_mirrored_street_has_mirrored_answers(truth: SceneTruth) -> None:
    other = replace(truth, objects=tuple(replace(o, offset=-o.offset) for o in truth.objects))
    here, there = said(truth), said(other)
    for name in set(NAMED) - {"gap", "pedestrians_left", "pedestrians_right"}:
        assert there[name] == mirrored(here[name])
    assert there["pedestrians_left"] == mirrored(here["pedestrians_right"])
    assert there["pedestrians_right"] == mirrored(here["pedestrians_left"])


@PROPERTY
@given(scenes)
def test_what_is_not_there_is_not_told(truth: SceneTruth) -> None:
    present = [o for o in truth.objects if o.share >= PRESENT_SHARE]
    seen = replace(truth, objects=tuple(present))
    answers = said(truth)
    assert answers == said(seen)
    labels = {o.label for o in present}
    for name, none, sought in (
        ("cones", "no cones.", {"cone"}),
        ("cyclists", "no bicycle.", {"bicycle"}),
        ("heavy", "no truck or bus.", {"truck", "bus"}),
        ("works", "no road works.", {"cone", "barrier"}),
        ("crosswalk", "no crosswalk.", {"crosswalk"}),
        ("signs", "no signs.", {"stop sign", "speed-limit sign"}),
    ):
        assert (answers[name] == none) == (not labels & sought)
    assert (answers["go"] == "yes.") == (answers["stopper"] == "nothing, drive on.")
    in_lane = [o for o in present if o.label in OBSTACLES and abs(o.offset) < 1.3]
    if in_lane:
        assert answers["lane"].startswith("no, ")
    if answers["lead"].startswith("near"):
        assert answers["go"] == "no."


@PROPERTY
@given(scenes, st.floats(1.05, 3.0))
def test_a_thing_is_not_told_nearer_than_a_nearer_one(truth: SceneTruth, factor: float) -> None:
    far = replace(
        truth, objects=tuple(replace(o, distance=o.distance * factor) for o in truth.objects)
    )
    for name in ("cones", "cyclists", "works", "crosswalk"):
        near_text, far_text = NAMED[name].answer(truth), NAMED[name].answer(far)
        if not near_text.startswith("no "):
            metres = [int(text.split("about ")[1].split()[0]) for text in (near_text, far_text)]
            assert metres[0] <= metres[1]


@pytest.mark.slow
def test_every_kind_is_answered_in_several_ways_and_held_out_words_stay_out() -> None:
    truths = [street.truth for street in streets(300)]
    trained = {wording for kind in INSTRUCTIONS for wording in kind.wordings}
    for kind in INSTRUCTIONS:
        answers = Counter(kind.answer(truth) for truth in truths)
        assert len(answers) >= 2
        assert max(answers.values()) <= 0.95 * len(truths)
        assert len(kind.held_out) >= 3
        assert not trained & set(kind.held_out)


@pytest.mark.parametrize(
    ("answer", "true", "right"),
    [
        ("no cones.", "no cones.", True),
        ("cones ahead, about 10 metres.", "cones ahead, about 20 metres.", True),
        ("cones ahead, about 5 metres.", "cones ahead, about 20 metres.", False),
        ("cones ahead, about 11 metres.", "cones ahead, about 10 metres.", False),
        ("cones on the left, about 10 metres.", "cones ahead, about 10 metres.", False),
        ("no cones.", "cones ahead, about 10 metres.", False),
        ("", "no cones.", False),
    ],
)
def test_a_distance_may_be_one_step_off_and_nothing_else(
    answer: str, true: str, right: bool
) -> None:
    assert agrees(answer, true) is right


@pytest.mark.slow
def test_the_reader_of_captions_knows_what_captions_tell_and_no_more() -> None:
    rng = np.random.default_rng(0)
    told = rng.random((400, 1)) < 0.5
    side = rng.random(400) < 0.6
    true = [f"{fact} {left}." for fact, left in zip(told[:, 0], side, strict=True)]
    share = examination.reader_accuracy(told, true)
    assert share == pytest.approx(side.mean(), abs=0.02)
    blind = examination.reader_accuracy(told[:, :0], true)
    assert blind < 0.45
    # A fact about each scene alone is no help: nobody has seen its like.
    assert examination.reader_accuracy(np.eye(400, dtype=bool), true) <= share


@pytest.mark.slow
def test_the_shipped_bundle_obeys(tmp_path: Path) -> None:
    written = tmp_path / "instructions.json"
    report = examination.run("roadworld-nano", scenes=12)
    report.show(Console(quiet=True), written)
    figures = report.figures
    assert written.is_file()
    for name in ("instructions_right_mean", "instructions_exact_mean"):
        mean = figures[name]
        assert isinstance(mean, float)
        assert mean > 0.5
