# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""config/perception.yaml suits a bundle of every place that the package has a vocabulary for."""

from __future__ import annotations

import pytest
import yaml

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.common.share import share_folder
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.perception.fusion.rules import (
    Answer,
    Contradiction,
    Hazard,
    watched_labels,
)
from vlm_perception.perception.reasoning.questions import load_questions

CONFIG = share_folder() / "config"
PLACES = ("road", "street", "indoor", "warehouse", "yard")


def parameters(node: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = read_yaml(CONFIG / "perception.yaml")[f"/**/{node}"][
        "ros__parameters"
    ]
    return found


HAZARDS = [Hazard.parse(line) for line in parameters("scene_fusion")["hazards"]]
CONTRADICTIONS = [
    Contradiction.parse(line) for line in parameters("scene_fusion")["contradictions"]
]
KEPT = parameters("language_reasoner")["keep_questions"]


def labels_of(place: str) -> set[str]:
    if place == "road":
        return {
            each.label for each in ModelBundle.load("roadworld-nano").manifest.vocabulary.labels
        }
    content = yaml.safe_load((CONFIG / "vocabularies" / f"{place}.yaml").read_text())
    return {each["label"] for each in content["labels"]}


def questions_of(place: str) -> tuple[QuestionSpec, ...]:
    return load_questions(CONFIG / "questions" / f"{place}.yaml")


def can_come(answer: Answer | None, place: str) -> bool:
    choices = {each.name: each.choices for each in questions_of(place)}
    return answer is not None and answer.value in choices.get(answer.attribute, ())


@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_hazards_contradictions_and_questions_that_are_kept(place: str) -> None:
    labels = labels_of(place)
    assert len([rule for rule in HAZARDS if rule.label in labels]) >= 5
    assert [rule for rule in HAZARDS if can_come(rule.answer, place)]
    assert [
        rule for rule in CONTRADICTIONS if rule.label in labels and can_come(rule.answer, place)
    ]
    kept = [each.name for each in questions_of(place) if each.name in KEPT]
    assert 2 <= len(kept) <= (len(questions_of(place)) + 1) // 2


def test_no_rule_is_of_no_use() -> None:
    """A label or an answer that is misspelt would never be seen."""
    labels = {place: labels_of(place) for place in PLACES}
    for rule in HAZARDS:
        assert any(rule.label in labels[place] for place in PLACES), rule
        assert rule.answer is None or any(can_come(rule.answer, place) for place in PLACES), rule
    for contradiction in CONTRADICTIONS:
        assert any(
            contradiction.label in labels[place] and can_come(contradiction.answer, place)
            for place in PLACES
        ), contradiction
    assert set(KEPT) <= {each.name for place in PLACES for each in questions_of(place)}


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_reports_no_hazard_of_another_place(place: str) -> None:
    """Questions of two places may have the same name: what they report must be known there."""
    for rule in HAZARDS:
        if can_come(rule.answer, place):
            assert rule.label in labels_of(place), rule


def test_a_vocabulary_is_told_which_hazards_it_shows() -> None:
    rules = [Hazard.parse(line) for line in ("forklift | forklift=moving", "spill", "person")]
    said = "hazards that the vocabulary has a label for: "
    assert watched_labels(rules, ["person", "spill"]) == f"{said}spill, person (2 of 3)"
    assert watched_labels([], ["tree"]).startswith("no hazards are set: ")
    assert watched_labels(rules, ["tree"]) == ""
