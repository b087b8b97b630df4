# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics are perfect for the truth, and no better than chance for constant answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from support.streets import streets

pytest.importorskip("sklearn")

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.datasets.roadworld.appearance import open_appearance
from vlm_perception.datasets.roadworld.truth import QUESTIONS, SceneTruth, captions
from vlm_perception.datasets.roadworld.world import LABELS, OBJECT_LABELS
from vlm_perception.evaluation.pope.negatives import SPLITS
from vlm_perception.evaluation.road_world import ForeignBundleError
from vlm_perception.evaluation.tasks import roadworld
from vlm_perception.evaluation.tasks.roadworld import (
    Answers,
    RoadWorldTask,
    RoadWorldTaskError,
    evaluation_streets,
    run,
)


@pytest.fixture(scope="module")
def truths() -> list[SceneTruth]:
    return [street.truth for street in streets(300)]


def metrics(answers: Answers) -> dict[str, object]:
    figures, tables = roadworld.metrics(answers)
    assert len(tables) == 4
    return figures


def constant(truths: list[SceneTruth], *, presence: str = "yes", caption: str = "") -> Answers:
    """What one says who never looks."""
    count = len(truths)
    return Answers(
        truths,
        [np.full(len(LABELS), 0.5, np.float32)] * count,
        [{name: choices[0] for name, (_, choices) in QUESTIONS.items()}] * count,
        [dict.fromkeys(LABELS, presence)] * count,
        [caption] * count,
    )


@pytest.mark.slow
def test_the_truth_gets_full_marks(truths: list[SceneTruth]) -> None:
    rng = np.random.default_rng(0)
    present = [{label: label in truth.shares for label in LABELS} for truth in truths]
    figures = metrics(
        Answers(
            truths,
            [np.array(list(labels.values()), np.float32) for labels in present],
            [truth.attributes for truth in truths],
            [{label: "yes" if here else "no" for label, here in p.items()} for p in present],
            [captions(truth, rng)[0] for truth in truths],
        )
    )
    for name in (
        "tags_macro_ap",
        "tags_small_macro_ap",
        "tags_medium_macro_ap",
        "tags_large_macro_ap",
        "attributes_balanced_accuracy_mean",
        "attributes_balanced_accuracy_min",
        "presence_f1",
        "caption_object_f1",
    ):
        assert figures[name] == pytest.approx(1), name
    for name in ("presence_f1_by_negatives", "presence_recall_by_size", "caption_recall_by_size"):
        assert list(figures[name].values()) == pytest.approx([1, 1, 1]), name


def test_who_never_looks_gets_what_chance_gives(truths: list[SceneTruth]) -> None:
    figures = metrics(constant(truths))
    assert figures["tags_macro_ap"] == pytest.approx(figures["tags_macro_ap_chance"])
    assert figures["attributes_balanced_accuracy_mean"] == pytest.approx(
        figures["attributes_majority_mean"]
    )
    assert figures["presence_f1"] == pytest.approx(figures["presence_f1_always_yes"]) == 2 / 3
    assert set(figures["presence_f1_by_negatives"].values()) == {2 / 3}
    assert figures["caption_object_f1"] == 0
    assert metrics(constant(truths, presence="no"))["presence_f1"] == 0
    frequent = [
        label
        for label in OBJECT_LABELS
        if np.mean([label in truth.shares for truth in truths]) > 1 / 3
    ]
    named = metrics(constant(truths, caption=" and ".join(f"a {label}" for label in frequent)))
    assert named["caption_object_f1"] == named["caption_object_f1_frequent"] > 0.3


def test_an_error_costs_marks_where_it_is_made(truths: list[SceneTruth]) -> None:
    rng = np.random.default_rng(0)
    answers = constant(truths)
    answers.attributes = [{**truth.attributes, "weather": "fog"} for truth in truths]
    answers.captions = [captions(truth, rng)[0].replace("bus", "car") for truth in truths]
    figures = metrics(answers)
    accuracies = figures["attributes_balanced_accuracy"]
    assert accuracies.pop("weather") == figures["attributes_balanced_accuracy_min"]
    assert figures["attributes_balanced_accuracy_min"] == pytest.approx(1 / 3)
    assert set(accuracies.values()) == {1.0}
    assert 0.8 < figures["caption_object_f1"] < 1


def test_as_many_labels_are_asked_for_that_are_absent_as_present(truths: list[SceneTruth]) -> None:
    drawn = roadworld.negatives(truths)
    assert drawn == roadworld.negatives(truths)
    for truth, pairs in zip(truths, drawn, strict=True):
        kinds, positives, negatives = zip(*pairs, strict=True) if pairs else ((), (), ())
        assert set(positives) <= set(truth.shares)
        assert not set(negatives) & set(truth.shares)
        assert len(set(kinds)) == len(set(positives)) == len(set(negatives)) == len(pairs)
        assert len(pairs) == min(3, len(truth.shares))
    every = [pair for pairs in drawn for pair in pairs]
    kinds = Counter(kind for kind, _, _ in every)
    assert set(kinds) == set(SPLITS)
    assert max(kinds.values()) < 1.15 * min(kinds.values())
    frequency = Counter(label for truth in truths for label in truth.labels)
    usual = {
        kind: np.mean([frequency[negative] for k, _, negative in every if k == kind])
        for kind in SPLITS
    }
    assert min(usual["popular"], usual["adversarial"]) > 1.2 * usual["random"]


def test_an_exam_that_has_become_easy_is_refused(
    truths: list[SceneTruth],
) -> None:
    assert "small" in roadworld.conditions(truths * 2)
    with pytest.raises(RoadWorldTaskError, match="no longer"):
        roadworld.conditions(truths[:1] * 600)
    assert "10 scenes" in roadworld.conditions(truths[:1] * 10)


def test_a_bundle_of_another_world_is_refused(siglip_bundle: ModelBundle) -> None:
    with pytest.raises(ForeignBundleError, match="not a road-world bundle"):
        run(str(siglip_bundle.path), scenes=1)


def test_the_randomised_bundle_sees_more_in_random_streets() -> None:
    wrong = {}
    for name in ("roadworld-nano", "roadworld-randomised"):
        task = RoadWorldTask(ModelBundle.load(name), appearance=1.0)
        for street in evaluation_streets(8, open_appearance(1.0)):
            task.take(street)
        assert task.report().figures["appearance"] == 1.0
        truths, scores = task.answers.truths, np.stack(task.answers.scores)
        present = np.array([[label in truth.shares for label in LABELS] for truth in truths])
        wrong[name] = np.abs(scores - present).mean()
    assert wrong["roadworld-randomised"] < 0.8 * wrong["roadworld-nano"]


def test_the_randomised_bundle_gives_its_stored_outputs() -> None:
    ModelBundle.load("roadworld-randomised").verify_golden()
