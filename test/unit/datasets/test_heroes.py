# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The exam of adapted prompts: its classes are frozen, and its scenes show what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.datasets.captions_file import read_captions
from vlm_perception.datasets.roadworld.heroes.classes import (
    PAINT_NAMES,
    HeroClass,
    digest,
    tasks,
)
from vlm_perception.datasets.roadworld.heroes.exam import write_exam
from vlm_perception.datasets.roadworld.heroes.scenes import SHARE, hero_street
from vlm_perception.datasets.roadworld.heroes.training import captions, training_look

FROZEN = "7f860af326b3d99b4d395269c65fbb06fccbefc0c482fecb6c107119adab7b5f"
"""Of the classes, as they were before any prompt was learned."""
SIZE = (160, 90)
OBJECTS = [each for task in tasks() for each in task.classes if each.look.kind]


def test_classes_are_those_that_were_frozen() -> None:
    assert digest(tasks()) == FROZEN


def test_every_word_is_seen_and_half_of_the_combinations_never() -> None:
    assert len(tasks()) == 11
    seen = {word for task in tasks() for name in task.names("seen") for word in name.split()}
    for task in tasks():
        assert len({each.name for each in task.classes}) == len(task.classes)
        assert seen >= {word for each in task.classes for word in each.name.split()}
    pairs = tasks()[0]
    assert len(pairs.classes) == 5 * len(PAINT_NAMES) == 2 * len(pairs.names("seen"))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(OBJECTS), st.integers(0, 1 << 30))
def test_a_scene_shows_its_class_and_nothing_else(hero: HeroClass, seed: int) -> None:
    look = hero.look
    street = hero_street(look, seed, SIZE)
    (shown,) = street.truth.objects
    assert shown.share >= SHARE
    assert shown.label.endswith(look.kind)
    assert not look.state or shown.label.startswith(look.state)
    middle = shown.box[0] + shown.box[2] / 2
    assert {"": True, "left": middle < 80, "right": middle > 80}[look.side]


def test_a_street_is_of_its_class() -> None:
    (streets,) = (task for task in tasks() if task.name == "road-traffic")
    for each in streets.classes:
        truth = hero_street(each.look, 7, SIZE).truth
        assert (truth.attributes["road"], truth.attributes["traffic"]) == (
            each.look.road,
            each.look.traffic,
        )


@given(st.integers(0, 1 << 30))
def test_no_training_image_shows_or_names_what_is_kept_for_the_exam(seed: int) -> None:
    look = training_look(np.random.default_rng(seed))
    said = " ; ".join(f" {text} " for text in captions(look))
    for task in tasks():
        for each in task.classes:
            if each.part == "seen" or task.control:
                continue
            wanted = {name: value for name, value in vars(each.look).items() if value}
            assert any(getattr(look, name) != value for name, value in wanted.items())
            assert f" {each.name} " not in said


def test_one_seed_gives_one_scene() -> None:
    one, again = (hero_street(OBJECTS[0].look, 5, SIZE) for _ in range(2))
    assert np.array_equal(one.image, again.image)


def test_an_exam_is_completed_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = "vlm_perception.datasets.roadworld.heroes.exam"
    monkeypatch.setattr(f"{exam}.tasks", lambda: tasks()[5:7])
    monkeypatch.setattr(f"{exam}.SOURCE_IMAGES", 1)
    assert write_exam(tmp_path / "exam", 1, 2) == digest(tasks()[5:7])
    told = json.loads((tmp_path / "exam" / "exam.json").read_text())
    assert [task["new"] for task in told["tasks"]] == [
        list(task.names("seen")) for task in tasks()[5:7]
    ]
    told_of = read_captions(tmp_path / "exam" / "training" / "captions.jsonl")
    assert len(told_of) == 2
    assert all(texts for _, texts in told_of)
    images = sorted((tmp_path / "exam").rglob("*.jpg"))
    lost, kept = images[0], images[-1].stat().st_mtime_ns
    content = lost.read_bytes()
    lost.unlink()
    write_exam(tmp_path / "exam", 1)
    assert lost.read_bytes() == content
    assert images[-1].stat().st_mtime_ns == kept
