# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Typed questions from a file, and what the reasoner does with them at less effort."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.places import CONFIG

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.questions import (
    QuestionsError,
    kept_questions,
    load_questions,
)
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame

WET = {"name": "wet", "question": "is the road wet", "choices": ["no", "yes"]}


def test_the_example_is_what_the_shipped_bundle_asks() -> None:
    questions = ModelBundle.load("roadworld-nano").manifest.questions
    assert load_questions(CONFIG / "questions" / "road.yaml") == questions


def test_questions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"questions": [WET | {"temperature": 1.5}]}))
    (question,) = load_questions(path)
    assert (question.name, question.choices, question.temperature) == ("wet", ("no", "yes"), 1.5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"questions": [WET, WET]}, "the name 'wet' is listed twice"),
        ({"questions": [WET | {"choices": ["yes"]}]}, "at least 2"),
        ({"questions": [WET | {"choices": ["yes", "yes"]}]}, "'yes' is listed twice"),
        ({"questions": [WET | {"choices": [False, True]}]}, "Put yes, no, on, off"),
        ({"questions": [WET | {"name": ""}]}, "questions.0.name"),
        ({"questions": [WET | {"tone": "kind"}]}, "questions.0.tone"),
        ({"questions": []}, "at least 1"),
        ([WET], "questions in"),
        ("", "questions in"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"questions: [", "cannot be read"),
        (b"questions: 2026-01-01", "cannot be read"),
        (b"questions: !!bool x", "put strings in quotes"),
        (b"questions: &a [*a]", r"alias \*a"),
        ({"questions": [WET | {"question": "x" * 2000}]}, "at most 1000 characters"),
        (None, "cannot be read"),
    ],
)
def test_what_holds_no_questions_is_refused(tmp_path: Path, content: object, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_bytes(
            content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
        )
    with pytest.raises(QuestionsError, match=sentence):
        load_questions(path)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(QuestionsError, match=r"cannot be read .*give a regular file"):
            load_questions(other)


def test_the_named_questions_are_kept_or_the_first_half() -> None:
    questions = [
        QuestionSpec(name=name, question=f"is there {name}", choices=("no", "yes"))
        for name in ("rain", "fog", "ice")
    ]
    assert [item.name for item in kept_questions(questions, ("ice", "fog"))] == ["fog", "ice"]
    assert [item.name for item in kept_questions(questions, ())] == ["rain", "fog"]
    assert [item.name for item in kept_questions(questions, ("snow",))] == ["rain", "fog"]
    assert kept_questions((), ("snow",)) == ()


def embed(bundle: ModelBundle, at_s: float) -> Embedding:
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    return VisionEncoder(bundle).encode(Frame(image, round(at_s * 1e9), "camera"), 0)


def test_less_effort_means_a_shorter_caption_then_fewer_questions(
    siglip_bundle: ModelBundle,
) -> None:
    settings = ReasonerSettings(
        max_caption_tokens=12, force_keyframes=True, keep_questions=("pedestrian",)
    )
    reasoner = Reasoner(LanguageService(siglip_bundle, settings))
    full, short, few = (reasoner.reason(embed(siglip_bundle, 1.0 + n), n) for n in range(3))
    assert [full.rung, short.rung, few.rung] == [0, 1, 2]
    assert len(full.attributes) == len(short.attributes) == 3
    assert [attribute.name for attribute in few.attributes] == ["pedestrian"]
    np.testing.assert_allclose(
        few.attributes[0].probabilities, full.attributes[2].probabilities, atol=1e-5
    )
    kept = full.caption.removesuffix(" ...")
    assert short.caption.endswith(" ...") and len(short.caption) < len(full.caption)
    assert kept.startswith(short.caption.removesuffix(" ..."))


def test_a_repeat_says_on_which_rung_it_was_made(siglip_bundle: ModelBundle) -> None:
    settings = ReasonerSettings(drift_threshold=2.0, max_caption_tokens=4)
    reasoner = Reasoner(LanguageService(siglip_bundle, settings))
    assert reasoner.reason(embed(siglip_bundle, 1.0), 2).rung == 2
    repeat = reasoner.reason(embed(siglip_bundle, 1.1), 0)
    assert (repeat.is_keyframe, repeat.rung) == (False, 2)
    assert reasoner.reason(embed(siglip_bundle, 1.2), 3).rung == 3


def test_below_the_floor_a_value_is_unknown(siglip_bundle: ModelBundle) -> None:
    plain = Reasoner(LanguageService(siglip_bundle, ReasonerSettings(max_caption_tokens=4)))
    known = plain.reason(embed(siglip_bundle, 1.0)).attributes
    likeliest = [max(attribute.probabilities) for attribute in known]
    floor = sorted(likeliest)[1]
    settings = ReasonerSettings(max_caption_tokens=4, confidence_floor=floor)
    doubting = Reasoner(LanguageService(siglip_bundle, settings))
    attributes = doubting.reason(embed(siglip_bundle, 1.0)).attributes
    for before, after, probability in zip(known, attributes, likeliest, strict=True):
        assert after.value == (before.value if probability >= floor else "unknown")
        assert after.probabilities == before.probabilities
    assert [attribute.value for attribute in attributes].count("unknown") == 1


def test_choices_that_the_model_cannot_tell_apart_are_refused(siglip_bundle: ModelBundle) -> None:
    question = siglip_bundle.manifest.questions[0].model_copy(update={"choices": ("dry", "dry")})
    with pytest.raises(PromptError, match=r"question 'weather': .* the same tokens"):
        LanguageService(siglip_bundle, questions=[question])
