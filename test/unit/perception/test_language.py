# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The language model and the reasoner on a random bundle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.engines.base import EngineError
from vlm_perception.perception.embedding_checks import BundleMismatchError, EmbeddingError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.reasoning.language_service import InstructionError, LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.tokenizer import TextError, TextTokenizer
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, Reasoning

SETTINGS = ReasonerSettings(drift_threshold=2.0, max_keyframe_age=1.0, max_caption_tokens=12)


def embed(bundle: ModelBundle, seed: int = 0, at_s: float = 1.0) -> Embedding:
    image = np.random.default_rng(seed).integers(0, 256, (36, 64, 3), np.uint8)
    return VisionEncoder(bundle).encode(Frame(image, round(at_s * 1e9), "camera"), 0)


def made(bundle: ModelBundle, settings: ReasonerSettings = SETTINGS) -> Reasoner:
    """A reasoner with a service of its own."""
    return Reasoner(LanguageService(bundle, settings))


@pytest.fixture
def language(siglip_bundle: ModelBundle) -> LanguageModel:
    return LanguageModel(siglip_bundle)


def test_words_are_never_control_tokens(siglip_bundle: ModelBundle) -> None:
    tokenizer = TextTokenizer(siglip_bundle.file("tokenizer.json"))
    controls = {0, 1, 2, 3}
    for text in ("<eos>", "stop <eos><image> now", "<bos>" * 50):
        ids = tokenizer.encode_template("<bos>question: {text} answer:", text)
        assert ids[0] == 1
        assert not controls & set(ids[1:])
        assert tokenizer.decode(ids) == f"question: {text} answer:"
    with pytest.raises(TextError, match="UTF-8"):
        tokenizer.encode("\udcff")


def test_a_partial_character_is_not_shown(siglip_bundle: ModelBundle) -> None:
    tokenizer = TextTokenizer(siglip_bundle.file("tokenizer.json"))
    ids = tokenizer.encode("aé")
    assert tokenizer.decode(ids) == "aé"
    assert tokenizer.decode(ids[:-1]) == "a"


def test_one_question_does_not_see_another(
    siglip_bundle: ModelBundle, language: LanguageModel
) -> None:
    prefix = language.prefill(embed(siglip_bundle).tokens)
    questions = siglip_bundle.manifest.questions
    together = language.answer(prefix, language.pack(questions))
    alone = [language.answer(prefix, language.pack([question]))[0] for question in questions]
    for one, other in zip(together, alone, strict=True):
        assert (one.name, one.value) == (other.name, other.value)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert sum(one.probabilities) == pytest.approx(1.0)


def test_temperature_flattens(siglip_bundle: ModelBundle, language: LanguageModel) -> None:
    prefix = language.prefill(embed(siglip_bundle).tokens)
    question = siglip_bundle.manifest.questions[0]
    sharp, flat = language.answer(
        prefix, language.pack([question, question.model_copy(update={"temperature": 100.0})])
    )
    assert max(flat.probabilities) < max(sharp.probabilities)
    assert flat.value == sharp.value


def test_branches_of_a_prefix_do_not_disturb_each_other(
    siglip_bundle: ModelBundle, language: LanguageModel
) -> None:
    prefix = language.prefill(embed(siglip_bundle).tokens)
    packed = language.pack(siglip_bundle.manifest.questions)
    first = language.generate(prefix, "describe the scene", max_tokens=20)
    answers = language.answer(prefix, packed)
    language.generate(prefix, "what is the weather", max_tokens=20)
    assert language.generate(prefix, "describe the scene", max_tokens=20) == first
    assert language.answer(prefix, packed) == answers


def test_budgets_end_a_text_that_never_stops(siglip_bundle: ModelBundle) -> None:
    ticks, manifest = iter(range(1000)), siglip_bundle.manifest
    assert manifest.language is not None
    # The padding token, which no text of this model holds.
    spec = manifest.language.model_copy(update={"stop_token_ids": (0,)})
    endless = replace(siglip_bundle, manifest=manifest.model_copy(update={"language": spec}))
    language = LanguageModel(endless, clock=lambda: float(next(ticks)))
    prefix = language.prefill(embed(siglip_bundle).tokens)
    assert len(language.generate(prefix, "describe", max_tokens=5).token_ids) == 5
    timed = language.generate(prefix, "describe", max_tokens=50, budget_s=3.0)
    assert len(timed.token_ids) == 3
    assert not timed.finished
    # And there is an end to the cache, whatever is asked for.
    longest = language.generate(prefix, "describe", max_tokens=10_000)
    assert len(longest.token_ids) <= 128 and not longest.finished


def test_choices_that_are_the_same_tokens_are_refused(
    siglip_bundle: ModelBundle, language: LanguageModel
) -> None:
    language.pack(siglip_bundle.manifest.questions)
    alike = siglip_bundle.manifest.questions[0].model_copy(update={"choices": ("red", "red")})
    with pytest.raises(PromptError, match="the same tokens"):
        language.pack([alike])
    endless = alike.model_copy(update={"question": "?" * 2000, "choices": ("red", "green")})
    with pytest.raises(PromptError, match="there is room for 367"):
        language.pack([endless])
    with pytest.raises(ValueError, match="twice"):
        QuestionSpec(name="x", question="y", choices=("red", "red"))
    with pytest.raises(ValueError, match="at least 2"):
        QuestionSpec(name="x", question="y", choices=("red",))


def test_a_reasoner_analyses_key_frames_and_repeats_the_anchor(siglip_bundle: ModelBundle) -> None:
    service = LanguageService(siglip_bundle, SETTINGS)
    service.warm_up()
    reasoner = Reasoner(service, run_id="run")
    first = reasoner.reason(embed(siglip_bundle, 0, 1.0))
    assert (first.trigger, first.is_keyframe, first.run_id) == ("first", True, "run")
    assert [attribute.name for attribute in first.attributes] == ["weather", "light", "pedestrian"]
    assert first.drift == 0
    assert first.stages.keys() == {"prefill", "questions", "caption", "total"}
    assert sum(first.stages.values()) <= 2 * first.stages["total"]
    second = reasoner.reason(embed(siglip_bundle, 1, 1.5))
    assert (second.trigger, second.is_keyframe) == ("none", False)
    assert second.stages.keys() == {"total"}
    assert second.drift > 0
    assert (second.stamp_ns, second.keyframe_stamp_ns) == (1_500_000_000, 1_000_000_000)
    assert said(second) == said(first)
    third = reasoner.reason(embed(siglip_bundle, 1, 2.0))
    assert (third.trigger, third.keyframe_stamp_ns) == ("age", 2_000_000_000)


def said(reasoning: Reasoning) -> tuple[object, ...]:
    return reasoning.caption, reasoning.attributes, reasoning.instruction


def test_two_reasoners_say_the_same(siglip_bundle: ModelBundle) -> None:
    seen = [embed(siglip_bundle, seed, 1.0 + seed) for seed in range(3)]
    one, other = (made(siglip_bundle) for _ in range(2))
    for embedding in seen:
        assert said(one.reason(embedding)) == said(other.reason(embedding))


def test_an_instruction_makes_a_key_frame_and_is_carried_along(siglip_bundle: ModelBundle) -> None:
    reasoner = made(siglip_bundle)
    assert reasoner.set_instruction("") == 0, "the bundle's own prompt is in force"
    reasoner.reason(embed(siglip_bundle, 0, 1.0))
    version = reasoner.set_instruction("look for <eos> cones")
    result = reasoner.reason(embed(siglip_bundle, 0, 1.1))
    assert (result.trigger, result.instruction_version) == ("instruction", version)
    assert result.instruction == "look for <eos> cones"
    with pytest.raises(InstructionError, match="100000 characters"):
        reasoner.set_instruction("x" * 100_000)
    with pytest.raises(InstructionError, match="tokens"):
        reasoner.set_instruction("zq" * 400)
    with pytest.raises(InstructionError, match="UTF-8"):
        reasoner.set_instruction("\udcff")
    assert reasoner.set_instruction(" look for <eos> cones") == version, "it is in force already"
    assert reasoner.reason(embed(siglip_bundle, 0, 1.2)).instruction_version == version
    assert reasoner.set_instruction("") == version + 1
    assert reasoner.set_instruction(" ") == version + 1


def test_an_instruction_that_comes_during_an_analysis_waits_for_the_next_frame(
    siglip_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, force_keyframes=True)
    captions = {}
    for text in ("look for cones", "is the road wet"):
        alone = made(siglip_bundle, settings)
        alone.set_instruction(text)
        captions[text] = alone.reason(embed(siglip_bundle)).caption
    assert len(set(captions.values())) == 2
    reasoner = made(siglip_bundle, settings)
    assert reasoner.set_instruction("look for cones") == 1
    answer = LanguageModel.answer

    monkeypatch.setattr(
        LanguageModel,
        "answer",
        lambda self, *arguments, **named: (
            reasoner.set_instruction("is the road wet"),
            answer(self, *arguments),
        )[1],
    )
    during = reasoner.reason(embed(siglip_bundle, 0, 1.0))
    monkeypatch.undo()
    after = reasoner.reason(embed(siglip_bundle, 0, 1.1))
    assert (during.instruction, during.instruction_version) == ("look for cones", 1)
    assert (after.instruction, after.instruction_version) == ("is the road wet", 2)
    assert (during.caption, after.caption) == tuple(captions.values())


def test_embeddings_of_another_bundle_are_refused(siglip_bundle: ModelBundle) -> None:
    reasoner = made(siglip_bundle)
    good = embed(siglip_bundle)
    with pytest.raises(BundleMismatchError, match="same bundle"):
        reasoner.reason(replace(good, bundle_digest="f" * 64))
    broken = np.full_like(good.tokens, np.nan)
    with pytest.raises(EmbeddingError, match="NaN"):
        reasoner.reason(replace(good, tokens=broken))
    with pytest.raises(PromptError, match="at most 144"):
        reasoner.reason(replace(good, tokens=np.zeros((200, 48), np.float16)))
    with pytest.raises(EngineError, match=r"float32 \[1, tokens, 48\] but is float32 \[1, 9, 7\]"):
        reasoner.reason(replace(good, tokens=np.zeros((9, 7), np.float16)))
    reasoner.reset()
    assert reasoner.reason(good).trigger == "time_jump"


def test_a_bundle_without_language_says_so(siglip_bundle: ModelBundle) -> None:
    dual = replace(
        siglip_bundle,
        manifest=siglip_bundle.manifest.model_copy(update={"language": None, "questions": ()}),
    )
    with pytest.raises(BundleError, match="no language model"):
        LanguageService(dual)


def test_each_new_conflict_is_looked_at_once(siglip_bundle: ModelBundle) -> None:
    reasoner = made(siglip_bundle, replace(SETTINGS, max_keyframe_age=100.0))
    frame = embed(siglip_bundle)
    triggers = []
    for conflicts in ([], ["a"], ["a"], ["a", "b"], [], ["a"]):
        triggers.append(reasoner.reason(frame).trigger)
        reasoner.note_conflicts(conflicts)
    triggers.append(reasoner.reason(frame).trigger)
    assert triggers == ["first", "none", "conflict", "none", "conflict", "none", "conflict"]


@pytest.fixture(scope="module")
def shipped() -> tuple[LanguageService, list[Embedding]]:
    """The service of the bundle with a trained temporal module, and what it may see."""
    bundle = ModelBundle.load("roadworld-nano")
    few = ReasonerSettings(max_caption_tokens=1, max_keyframe_age=0.5)
    return LanguageService(bundle, few), [embed(bundle, seed) for seed in range(4)]


SEQUENCE = itertools.count()
FRAMES = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.1, 0.1, 0.4, -3.0, 9.0]),  # seconds since the one before
        st.integers(0, 3),
        st.sampled_from(["", "", "", "reset", "doubt", "instruct"]),
        st.sampled_from(["reasoned on", "reasoned on", "without detail", "broken"]),
    ),
    min_size=2,
    max_size=12,
)


@pytest.mark.slow
@given(steps=FRAMES)
@settings(max_examples=25, deadline=None)
def test_a_frame_that_is_only_decided_on_leaves_no_trace(
    shipped: tuple[LanguageService, list[Embedding]], steps: Sequence[tuple[float, int, str, str]]
) -> None:
    """The reasoner says what one says that never saw such frames, whatever happened meanwhile."""
    service, pictures = shipped
    seeing, blind = Reasoner(service), Reasoner(service)
    stamp_ns, doubts = 100_000_000_000, 0
    for seconds, picture, event, fate in steps:
        stamp_ns += round(seconds * 1e9)
        doubts += event == "doubt"
        for each in (seeing, blind):
            if event == "reset":
                each.reset()
            elif event == "doubt":
                each.note_conflicts([str(doubts)])
            elif event == "instruct":
                each.set_instruction("look for cones")
        # Of a frame that was prefilled, no token is looked at again.
        seen = replace(pictures[picture], stamp_ns=stamp_ns, sequence=next(SEQUENCE))
        if fate == "reasoned on":
            said, expected = seeing.reason(seen), blind.reason(seen)
            assert replace(said, stages={}) == replace(expected, stages={})
            continue
        decided = seeing.decide(seen)
        if fate == "broken" and decided.is_keyframe:
            with pytest.raises(EmbeddingError, match="a patch token contains NaN"):
                seeing.conclude(decided, replace(seen, tokens=seen.tokens * np.float16("nan")))
