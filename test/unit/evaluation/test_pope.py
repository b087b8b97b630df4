# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""POPE's questions, answers and figures: as defined elsewhere, and no fault in silence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streets import PROPERTY

from vlm_perception.evaluation.pope import score_answers
from vlm_perception.evaluation.pope.answers import Answer, pair, read_answers
from vlm_perception.evaluation.pope.metrics import (
    FIGURES,
    Record,
    by_likelihood,
    figures,
    is_neither,
    read_answer,
)
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.pope.questions import (
    PUBLISHED,
    PopeError,
    Question,
    build_questions,
    files_by_split,
    read_questions,
    worded,
)

RECORD = st.builds(
    Record,
    split=st.sampled_from(SPLITS),
    question_id=st.just(1),
    image=st.sampled_from("abc"),
    question=st.just(""),
    label=st.sampled_from(("yes", "no")),
    answer=st.sampled_from(("yes", "No.", "not sure", "", "I see no dog", "None")),
    likelier=st.sampled_from(("yes", "no")),
)


def recomputed(labels: Sequence[bool], said: Sequence[bool]) -> tuple[float, ...]:
    """Accuracy, precision, recall, F1 and yes-ratio by their definitions."""

    def share(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    both = list(zip(labels, said, strict=True))
    hits = both.count((True, True))
    precision, recall = share(hits, sum(said)), share(hits, sum(labels))
    f1 = share(2 * precision * recall, precision + recall)
    right = sum(label == answer for label, answer in both)
    return share(right, len(both)), precision, recall, f1, share(sum(said), len(both))


@given(st.lists(RECORD, max_size=30))
@settings(PROPERTY, max_examples=30)
def test_figures_equal_an_independent_computation(records: list[Record]) -> None:
    found = figures(records)
    for kind, says in (
        ("pope", lambda record: record.likelier == "yes"),
        ("pope_free_text", lambda record: record.answer in ("yes", "", "None")),
    ):
        rows = []
        for split in SPLITS:
            here = [record for record in records if record.split == split]
            rows.append(recomputed([r.label == "yes" for r in here], [*map(says, here)]))
            assert [found[kind][split][name] for name in FIGURES] == pytest.approx(
                rows[-1], rel=0, abs=0, nan_ok=True
            )
        mean = [math.fsum(column) / 3 for column in zip(*rows, strict=True)]
        assert [found[kind]["mean"][name] for name in FIGURES] == pytest.approx(mean, nan_ok=True)
    for split in SPLITS:
        silent = [r for r in records if r.split == split and r.answer in ("", "None")]
        given = any(record.split == split for record in records)
        neither = found["pope_free_text"][split]["neither"]
        assert neither == len(silent) if given else math.isnan(neither)


@given(st.lists(RECORD, min_size=1, max_size=30), st.integers(0, 2**20))
@settings(PROPERTY, max_examples=10)
def test_an_image_that_is_drawn_twice_counts_twice(records: list[Record], seed: int) -> None:
    counted = by_likelihood(records)
    drawn = np.random.default_rng(seed).integers(0, 3, len(counted.images))
    weight = dict(zip(counted.images, drawn, strict=True))
    repeated = [record for record in records for _ in range(weight[record.image])]
    found = counted.figures(drawn[np.newaxis].astype(float))
    for split in (*SPLITS, "mean"):
        for name in FIGURES:
            value = figures(repeated)["pope"][split][name]
            assert found[f"pope.{split}.{name}"][0] == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "said", "neither"),
    [
        ("Yes, there is a dog. No cat.", "yes", False),
        ("No, there is no dog.", "no", False),
        ("There is, I think,not one", "yes", True),
        ("There is not, I think, one", "no", False),
        ("NO!", "yes", True),
        ("I cannot see one", "yes", True),
        ("", "yes", True),
        (". no", "yes", True),
        ("yes!", "yes", False),
    ],
)
def test_answers_are_read_by_the_published_rules(text: str, said: str, neither: bool) -> None:
    assert (read_answer(text), is_neither(text)) == (said, neither)


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8), min_size=1, max_size=9)
)
@settings(PROPERTY, max_examples=30)
def test_sets_ask_as_often_for_what_is_there_as_for_what_is_not(shown: list[list[str]]) -> None:
    images = [(str(index), tuple(objects)) for index, objects in enumerate(shown)]
    known = {name for objects in shown for name in objects}
    possible = [min(3, len(objects), len(known) - len(objects)) for objects in shown]
    if not any(possible):
        with pytest.raises(PopeError, match="no question"):
            build_questions(images, sorted(known), str)
        return
    sets = build_questions(images, sorted(known), str)
    assert sets == build_questions(images, sorted(known), str)
    positives = {}
    for split, questions in sets.items():
        assert [question.question_id for question in questions] == [*range(1, len(questions) + 1)]
        for (image, objects), count in zip(images, possible, strict=True):
            asked = [question for question in questions if question.image == image]
            there = [question.text for question in asked if question.label == "yes"]
            absent = [question.text for question in asked if question.label == "no"]
            assert len(there) == len(absent) == count == len(set(there)) == len(set(absent))
            assert set(there) <= set(objects)
            assert not set(absent) & set(objects)
            assert positives.setdefault(image, there) == there
            if absent and split != "random":
                left = known - set(objects) - set(absent)
                ranks = {name: rank(split, name, objects, shown) for name in known}
                assert min(ranks[name] for name in absent) >= max(
                    (ranks[name] for name in left), default=0
                )


def rank(split: str, name: str, here: Sequence[str], shown: Sequence[Sequence[str]]) -> float:
    """How popular a label is, or how often it goes with those of an image."""
    if split == "popular":
        return sum(name in objects for objects in shown)
    shares = [np.mean([name in objects for objects in shown if other in objects]) for other in here]
    return round(float(np.mean(shares)), 9)


def test_the_wording_is_the_published_one_with_the_article_that_a_name_takes() -> None:
    labels = "apple", "dining table", "Umbrella", "bus", "sheep", "people", "traffic lights"
    sets = build_questions([("1", ["apple"])], labels[:2], partial(worded, PUBLISHED))
    asked = [question.text for question in sets["popular"]]
    assert asked == ["Is there an apple in the image?", "Is there a dining table in the image?"]
    assert [worded("{}", label) for label in labels[2:]] == [
        *("an Umbrella", "a bus", "a sheep", "people", "traffic lights")
    ]


QUESTIONS = [
    Question(index + 1, f"{index // 3}.jpg", f"Is there a {name} in the image?", "yes")
    for index, name in enumerate(("dog", "cat", "bus", "car", "cat", "van"))
]


def changed(texts: Sequence[str]) -> list[Answer]:
    return [Answer(f"no {n}", f"is there a {text} in the image?") for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "answered", "faults"),
    [
        ("dog cat bus car cat van", [0, 1, 2, 3, 4, 5], {}),
        ("dog cat car cat van", [0, 1, None, 2, 3, 4], {"missing": 1}),
        ("dog cat cat bus car cat van", [0, 1, 3, 4, 5, 6], {"doubled": 1}),
        ("cat bus car cat van owl", [None, 0, 1, 2, 3, 4], {"missing": 1, "foreign": 1}),
        ("dog cat bus car van", [0, 1, 2, 3, None, 4], {"missing": 1}),
        ("bus dog cat car cat van", [1, 2, 0, 3, 4, 5], {"out_of_order": 1}),
        ("cat dog bus car cat van", [1, None, 2, 3, 4, 5], {"out_of_order": 1}),
        ("cat dog bus car van", [1, None, 2, 3, None, 4], {"missing": 1, "out_of_order": 1}),
    ],
)
def test_answers_find_their_questions_and_faults_are_counted(
    texts: str, answered: list[int | None], faults: dict[str, int]
) -> None:
    paired = pair(QUESTIONS, changed(texts.split()))
    found = [paired.texts.get(index) for index in range(len(QUESTIONS))]
    assert found == [None if line is None else f"no {line}" for line in answered]
    counts = paired.counts()
    assert counts.pop("answered") == sum(line is not None for line in answered)
    assert {kind: count for kind, count in counts.items() if count} == faults
    assert paired.complete == (None not in found and not faults.keys() - {"out_of_order"})
    assert bool(paired.told()) == bool(faults)


@pytest.mark.parametrize("key", ["question_id", "image"])
def test_answers_that_name_their_question_may_stand_in_any_order(key: str) -> None:
    order = [5, 0, 1, 2, 2, 3]
    answers = [
        Answer(
            f"no {index}",
            QUESTIONS[index].text,
            QUESTIONS[index].image if key == "image" else None,
            index + 1 if key == "question_id" else None,
        )
        for index in order
    ]
    paired = pair(QUESTIONS, answers)
    assert paired.texts == {index: f"no {index}" for index in (5, 0, 1, 2, 3)}
    assert len(paired.out_of_order) == 4
    assert len(paired.doubled) == len(paired.missing) == 1


def test_each_answer_is_paired_by_what_it_says() -> None:
    answers = [
        Answer(f"no {n}", question.text, question.image, str(question.question_id))
        for n, question in enumerate(QUESTIONS)
    ]
    # Without its id an answer is known by its image, and without that by its text and place.
    answers[1] = replace(answers[1], question_id=None)
    answers[4] = replace(answers[4], question_id=None, image=None)
    swapped = [answers[5], *answers[1:5], answers[0]]
    paired = pair(QUESTIONS, swapped)
    assert paired.texts == {index: f"no {index}" for index in range(6)}
    assert paired.complete
    # Texts alone say nothing of questions that several images are asked.
    twins = [
        replace(each, question_id=index, image=f"{index}")
        for index, each in enumerate(QUESTIONS[:3] * 4)
    ]
    with pytest.raises(PopeError, match=r"out of order.*`question_id`"):
        pair(twins, changed(["bus"] * 4 + ["cat"] * 4 + ["dog"] * 4))


def test_files_are_scored_with_the_sets_that_their_names_tell(tmp_path: Path) -> None:
    lines = [
        json.dumps({**vars(question), "label": label}) + "\n"
        for question, label in zip(QUESTIONS, ("yes", "no") * 3, strict=True)
    ]
    asked = tmp_path / "coco_pope_Popular.json"
    asked.write_text("".join(lines))
    answers = tmp_path / "answers"
    answers.write_text(
        "".join(f'{{"answer": "{text}"}}\n' for text in ("yes", "No", "", "no", "x"))
    )
    found = score_answers.run([str(asked)], [str(answers)])
    assert found.code == 1
    assert found.figures["answers"]["popular"] | {"out_of_order": 0} == {
        "answered": 5,
        "missing": 1,
        "doubled": 0,
        "foreign": 0,
        "out_of_order": 0,
    }
    assert found.figures["pope"]["popular"]["accuracy"] == 1
    assert found.figures["pope_free_text"]["popular"]["neither"] == 2
    assert math.isnan(found.figures["pope"]["mean"]["f1"])
    with pytest.raises(PopeError, match="--answers popular=FILE"):
        score_answers.run([str(asked)], [f"random={answers}"])
    with pytest.raises(PopeError, match="does not tell which set"):
        files_by_split(["questions.json"], "--questions")
    with pytest.raises(PopeError, match="both of the set random"):
        files_by_split(["random.json", "random=b.json"], "--questions")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "maybe"}, "line 1.*must be yes or no"),
        ({"label": True}, "must be yes or no"),
        ({"image": None}, "`image` must be"),
        ({"image": " "}, "`image` must be"),
        ({"text": 3}, "`text` must be"),
        ({"text": "\ud800"}, "line 1"),
        ({"question_id": None}, "`question_id` must be"),
        ({"question_id": "2"}, "line 2: the question_id 2 was there before"),
        ({"image": "\ud800"}, "line 1.*half a character"),
        ({"question_id": "\ud800"}, "line 1.*half a character"),
    ],
)
def test_questions_that_cannot_be_used_are_told_with_their_lines(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    file = tmp_path / "random.json"
    file.write_text(json.dumps(vars(QUESTIONS[0]) | change) + "\n" + json.dumps(vars(QUESTIONS[1])))
    with pytest.raises(PopeError, match=told):
        read_questions(file)


def test_published_files_that_are_one_array_are_taken_too(tmp_path: Path) -> None:
    file = tmp_path / "aokvqa_pope_seem_random.json"
    file.write_text(json.dumps([vars(question) for question in QUESTIONS], indent=4))
    assert read_questions(file) == QUESTIONS
    file.write_text(json.dumps([vars(QUESTIONS[0]), {}]))
    with pytest.raises(PopeError, match="item 2"):
        read_questions(file)


@pytest.mark.parametrize(
    "line",
    [
        "",
        '{"answer": 1}',
        '{"text": "no"}',
        '{"answer": "", "image": 1}',
        '{"answer": "", "question_id": true}',
        '{"answer": "", "question": "\\ud800"}',
        '[{"answer": ""}, 3]',
    ],
)
def test_answers_that_cannot_be_used_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(line)
    with pytest.raises(PopeError, match="answer"):
        read_answers(file)
    with pytest.raises(PopeError, match=r"1 of 1 answers cannot be used.*owl"):
        pair(QUESTIONS, changed(["owl"]))
