# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Chance is not called a difference, and a defect is found by the figure that should show it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.streets import PROPERTY

pytest.importorskip("sklearn")

from sklearn.metrics import average_precision_score, f1_score

from vlm_perception.evaluation.comparison.bootstrap import estimate
from vlm_perception.evaluation.comparison.compare import (
    ComparisonError,
    Difference,
    compare,
    corrected,
)
from vlm_perception.evaluation.comparison.scored import Counted, Scored, ratio
from vlm_perception.evaluation.tasks.answer_figures import AnswerResults, QuestionResults
from vlm_perception.evaluation.tasks.tag_figures import TagResults, average_precision

IMAGES = 300
NAMES = [f"{index}.jpg" for index in range(IMAGES)]
FREQUENCIES = np.linspace(0.1, 0.6, 8)


class World:
    """What is true of some images; models see it with errors of their own."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.present = self.rng.random((IMAGES, len(FREQUENCIES))) < FREQUENCIES
        self.truth = self.rng.integers(0, 3, (4, IMAGES))
        self.hard = self.rng.normal(size=(IMAGES, 1))

    def tags(self) -> TagResults:
        noise = self.rng.normal(size=self.present.shape)
        scores = 2 * self.present - 1 + self.hard / 2 + noise
        labels = [f"label {index}" for index in range(len(FREQUENCIES))]
        return TagResults(NAMES, labels, scores, self.present, scores > 0)

    def answers(self) -> AnswerResults:
        return AnswerResults(
            NAMES,
            [
                QuestionResults(f"question {index}", softmax(self._scores(truth)), truth)
                for index, truth in enumerate(self.truth)
            ],
        )

    def hits(self) -> Counted:
        counts = (self.rng.normal(size=(IMAGES, 30)) + self.hard > -1).astype(np.float64)
        return Counted(NAMES, counts, lambda sums: {f"{i}": sums[:, i] for i in range(30)})

    def _scores(self, truth: NDArray[np.int64]) -> NDArray[np.float64]:
        return 3 * np.eye(3)[truth] + 1.5 * self.rng.normal(size=(IMAGES, 3))


def softmax(scores: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    powers = np.exp(scores / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def real(pairs: list[tuple[Scored, Scored]]) -> set[str]:
    return {name for name, each in compare(pairs, 200).items() if each.real}


def test_equal_models_are_told_apart_as_often_as_the_level_says() -> None:
    worlds = [World(seed) for seed in range(200)]
    flagged = [
        any(each.real for each in compare([(world.hits(), world.hits())], 200).values())
        for world in worlds
    ]
    assert 0.02 <= np.mean(flagged) <= 0.08


def test_a_model_does_not_differ_from_itself() -> None:
    world = World(0)
    for scored in (world.tags(), world.answers(), world.hits()):
        found = compare([(scored, scored)], 50)
        assert not any(each.real for each in found.values())
        assert {each.value for each in found.values()} == {0}


def test_each_defect_is_found_by_the_figure_that_should_show_it() -> None:
    world = World(1)
    tags, answers = world.tags(), world.answers()
    hot = replace(
        answers.questions[1],
        probabilities=softmax(np.log(answers.questions[1].probabilities), temperature=5),
    )
    warmed = replace(answers, questions=[answers.questions[0], hot, *answers.questions[2:]])
    assert real([(tags, tags), (answers, warmed)]) == {
        f"answers.{of}.{kind}" for of in ("question 1", "mean") for kind in ("nll", "ece", "brier")
    }
    held = tags.held.copy()
    held[:, 5] &= tags.scores[:, 5] > 5
    assert real([(tags, replace(tags, held=held)), (answers, answers)]) == {
        "tags.label 5.f1",
        "tags.macro.f1",
    }
    blind = replace(tags, scores=world.rng.normal(size=tags.scores.shape))
    assert {f"tags.label {index}.ap" for index in range(8)} <= real([(tags, blind)])


def test_a_figure_lies_in_the_middle_of_its_interval_and_within_its_range() -> None:
    world = World(2)
    for name, each in {**estimate(world.answers()), **estimate(world.tags())}.items():
        assert 0 <= each.low < each.value < each.high, name
        assert each.high <= 1 or name.endswith("nll"), name
        assert 0.4 < (each.value - each.low) / (each.high - each.value) < 2.5, name


def test_results_are_compared_on_the_images_that_both_have_in_any_order() -> None:
    counts = np.arange(10.0)[:, np.newaxis]
    first = Counted(list("abcdefghij"), counts, lambda sums: {"sum": sums[:, 0]})
    second = Counted(list("jihgfx"), 2 * counts[:6], lambda sums: {"sum": sums[:, 0]})
    found = compare([(first, second)])["sum"]
    assert (found.first, found.second) == (5 + 6 + 7 + 8 + 9, 2 * (0 + 1 + 2 + 3 + 4))
    with pytest.raises(ComparisonError, match="different images"):
        compare([(first, replace(second, images=list("uvwxyz")))])


def test_what_is_too_rare_to_be_resampled_is_not_called_a_difference() -> None:
    def share(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"share": ratio(sums[:, 0], sums[:, 1])}

    once = np.zeros((IMAGES, 2))
    once[7] = 1
    never = once * (0, 1)
    found = compare([(Counted(NAMES, once, share), Counted(NAMES, never, share))])["share"]
    assert (found.value, found.real) == (-1, False)
    assert np.isnan([found.p, found.low, estimate(Counted(NAMES, once, share))["share"].low]).all()


def test_all_images_alike_are_worth_as_much_as_they_are_many() -> None:
    def share(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"share": ratio(sums[:, 0], sums[:, 1])}

    def among(images: int, told: int) -> Difference:
        right = np.zeros((images, 2))
        right[:told] = 1
        wrong = right * (0, 1)
        pair = Counted(NAMES[:images], wrong, share), Counted(NAMES[:images], right, share)
        return compare([pair], 200)["share"]

    for images, told in ((1, 1), (4, 4), (19, 19), (IMAGES, 5)):
        found = among(images, told)
        assert (found.value, found.told, found.real) == (1, False, False)
        assert np.isnan([found.low, found.high, found.p]).all()
    for images, told in ((20, 20), (IMAGES, 40)):
        found = among(images, told)
        assert found.real
        assert found.p == pytest.approx(2 * 0.5**20)
        assert (found.low, found.high) == (pytest.approx(0.85), 1)


def test_a_difference_of_shares_does_not_leave_their_range() -> None:
    counts = np.stack([np.arange(24) > 0, np.ones(24)], axis=1).astype(np.float64)
    first, second = (
        Counted(NAMES[:24], counts * held, lambda sums: {"": sums[:, 0] / 24})
        for held in ((0, 1), (1, 1))
    )
    found = compare([(first, second)])[""]
    assert 0.8 < found.low < found.value < found.high == 1


def test_an_interval_covers_what_other_images_would_have_given() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        counts = np.stack([rng.random(200) < 0.3, np.ones(200)], axis=1)
        found = estimate(Counted(NAMES[:200], counts, lambda s: {"": s[:, 0] / s[:, 1]}), 200)[""]
        covered.append(found.low <= 0.3 <= found.high)
    assert 0.9 <= np.mean(covered) <= 0.98


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_a_difference_is_real_where_holm_says_so(chances: list[float]) -> None:
    """Sequentially, as Holm wrote it: the least p is compared first, and the first miss ends it."""
    given_p = {f"{i}": Difference(0, 1, 0, 1, p) for i, p in enumerate(chances)}
    known = sorted((p, name) for name, p in zip(given_p, chances, strict=True) if not np.isnan(p))
    rejected = itertools.takewhile(
        lambda at: at[1][0] < 0.05 / (len(known) - at[0]), enumerate(known)
    )
    expected = {name for _, (_, name) in rejected}
    assert {name for name, each in corrected(given_p).items() if each.real} == expected


@PROPERTY
@given(st.data())
def test_a_weight_is_a_number_of_equal_images(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    rows = st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)),
        min_size=count,
        max_size=count,
    )
    scores, present, weights = map(np.array, zip(*data.draw(rows), strict=True))
    there, many = np.repeat(present, weights), np.repeat(scores, weights)
    found = average_precision(scores / 4, present, weights[np.newaxis].astype(np.float64))[0]
    results = TagResults(
        NAMES[:count], ["it"], scores[:, None] / 4, present[:, None], scores[:, None] > 2
    )
    f1 = results.figures(weights[np.newaxis].astype(np.float64))["tags.it.f1"][0]
    if there.all() or not there.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(average_precision_score(there, many))
    if there.any():
        assert f1 == pytest.approx(f1_score(there, many > 2))
