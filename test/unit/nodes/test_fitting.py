# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The parameters that fit a bundle: no rule about labels or questions that it does not have."""

from __future__ import annotations

from typing import Any

import pytest

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LabelSpec, Manifest, QuestionSpec, VocabularySpec
from vlm_perception.common.share import share_folder
from vlm_perception.common.yaml_files import read_yaml
from vlm_perception.rosgraph.fitting import PARAMETERS, fitting_parameters


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return ModelBundle.load("roadworld-nano").manifest


def of(content: dict[str, Any], node: str) -> dict[str, Any]:
    parameters: dict[str, Any] = content[f"/**/{node}"][PARAMETERS]
    return parameters


def test_the_bundle_of_the_package_keeps_every_rule(manifest: Manifest) -> None:
    own = read_yaml(share_folder() / "config" / "perception.yaml")
    assert fitting_parameters(manifest, "roadworld-nano") == own


def test_another_bundle_keeps_what_it_knows(manifest: Manifest) -> None:
    labels = (LabelSpec(label="barrier"), LabelSpec(label="red traffic light"))
    light = QuestionSpec(name="traffic_light", question="which light", choices=("none", "red"))
    other = manifest.model_copy(
        update={"vocabulary": VocabularySpec(labels=labels), "questions": (light,)}
    )
    content = fitting_parameters(other, "/models/other")
    fusion, reasoner = of(content, "scene_fusion"), of(content, "language_reasoner")
    assert fusion["hazards"] == ["barrier", "red traffic light | traffic_light=red"]
    assert fusion["contradictions"] == ["traffic_light=none | red traffic light"]
    assert reasoner["keep_questions"] == ["traffic_light"]
    assert {of(content, node)["bundle"] for node in ("vision_encoder", "language_reasoner")} == {
        "/models/other"
    }


def test_a_bundle_without_questions_has_no_rules_about_answers(manifest: Manifest) -> None:
    other = manifest.model_copy(
        update={
            "vocabulary": VocabularySpec(labels=(LabelSpec(label="dog"),)),
            "questions": (),
        }
    )
    content = fitting_parameters(other, "other")
    assert not {"hazards", "contradictions"} & set(of(content, "scene_fusion"))
    assert "keep_questions" not in of(content, "language_reasoner")
