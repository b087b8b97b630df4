# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about now and descriptions, without ROS: what is answered, refused and held back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.embedding_checks import BundleMismatchError, EmbeddingError
from vlm_perception.perception.language.decoder import HostDecoder
from vlm_perception.perception.language.fair_lock import Turns
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.newest_seen import NewestSeen
from vlm_perception.perception.language.partial_text import PartialText
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.question_answering import WAITING, Asker, AskError
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame, Tag

COLOURS = ("red", "yellow", "green")


@pytest.fixture(scope="module")
def seen(siglip_bundle: ModelBundle) -> Embedding:
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    return VisionEncoder(siglip_bundle).encode(Frame(image, 1_000_000_000, "camera"), 0)


@pytest.fixture(scope="module")
def language(siglip_bundle: ModelBundle) -> LanguageModel:
    return LanguageModel(siglip_bundle)


@pytest.fixture
def asker(siglip_bundle: ModelBundle, language: LanguageModel) -> Asker:
    questions = siglip_bundle.manifest.questions
    return Asker(siglip_bundle, language, NewestSeen(language), questions)


def ask(asker: Asker, seen: Embedding, question: str, choices: Sequence[str] = ()) -> object:
    return asker.ask(lambda: seen, question, choices, timeout=30.0, max_tokens=8)


def test_a_typed_question_is_answered_as_the_reasoner_answers_it(
    siglip_bundle: ModelBundle, language: LanguageModel, asker: Asker, seen: Embedding
) -> None:
    question = siglip_bundle.manifest.questions[0]
    expected = language.answer(language.prefill(seen.tokens), language.pack([question]))[0]
    answer = asker.ask(
        lambda: seen, question.question, question.choices, timeout=30.0, max_tokens=8
    )
    assert (answer.text, answer.stamp_ns) == (expected.value, seen.stamp_ns)
    assert answer.probabilities == expected.probabilities
    assert answer.confidence == max(expected.probabilities)


def test_a_known_question_keeps_its_temperature(
    siglip_bundle: ModelBundle, language: LanguageModel, seen: Embedding
) -> None:
    question = siglip_bundle.manifest.questions[0]
    flat = question.model_copy(update={"temperature": 1000.0})
    asker = Asker(siglip_bundle, language, NewestSeen(language), [flat])
    answer = asker.ask(lambda: seen, flat.question, flat.choices, timeout=30.0, max_tokens=8)
    np.testing.assert_allclose(answer.probabilities, 1 / len(flat.choices), atol=1e-2)


def test_a_free_question_is_answered_greedily_with_the_mean_probability(
    language: LanguageModel, asker: Asker, seen: Embedding
) -> None:
    prefix, question = language.prefill(seen.tokens), "is <eos> the road wet"
    tokens = list(language.stream(prefix, question, max_tokens=8))
    answer = asker.ask(lambda: seen, question, timeout=30.0, max_tokens=8)
    expected = language.generate(prefix, question, max_tokens=8)
    assert answer.text == (expected.text + ("" if expected.finished else " ...")).strip()
    mean = np.exp(np.mean([token.log_probability for token in tokens]))
    assert answer.confidence == pytest.approx(mean)
    softmax = np.exp(tokens[0].logits) / np.exp(tokens[0].logits).sum()
    assert np.exp(tokens[0].log_probability) == pytest.approx(softmax.max(), rel=1e-5)
    assert answer.probabilities == ()


def test_one_frame_is_prefilled_once(language: LanguageModel, seen: Embedding) -> None:
    prefixes = NewestSeen(language)
    first = prefixes.of(seen)
    assert prefixes.of(seen) is first
    other = prefixes.of(replace(seen, sequence=1))
    assert other is not first
    np.testing.assert_array_equal(other.cache.keys_values, first.cache.keys_values)


@pytest.mark.parametrize(
    ("question", "choices", "sentence"),
    [
        ("", (), "empty"),
        (" \n", COLOURS, "empty"),
        ("x" * 1001, (), "1001 characters"),
        ("zq" * 500, (), "tokens but there is room for"),
        ("which colour", ("red",), "two or more"),
        ("which colour", ("red", " "), "empty"),
        ("which colour", ("red", "red"), "'red' is listed twice"),
        ("which colour", [f"colour {n}" for n in range(21)], "21 choices"),
        ("which colour", ("red" * 300, "green" * 300), "2400 characters"),
        ("which colour \udcff", COLOURS, "UTF-8"),
    ],
)
def test_what_is_no_question_is_refused(
    asker: Asker, seen: Embedding, question: str, choices: Sequence[str], sentence: str
) -> None:
    with pytest.raises(VlmPerceptionError, match=sentence):
        ask(asker, seen, question, choices)


def test_choices_that_the_tokenizer_cannot_tell_apart_are_refused(
    asker: Asker, seen: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = TextTokenizer.encode
    monkeypatch.setattr(
        TextTokenizer, "encode", lambda self, text, **kwargs: encode(self, text.lower(), **kwargs)
    )
    with pytest.raises(PromptError, match="'red' and 'Red' have the same tokens"):
        ask(asker, seen, "which colour", ("red", "Red"))


def test_an_embedding_of_another_bundle_is_refused(asker: Asker, seen: Embedding) -> None:
    with pytest.raises(BundleMismatchError, match="same bundle"):
        ask(asker, replace(seen, bundle_digest="f" * 64), "is the road wet")


def test_an_embedding_of_another_width_is_refused(asker: Asker, seen: Embedding) -> None:
    for pooled in (seen.pooled[1:], seen.pooled[:0], np.append(seen.pooled, np.float32(0))):
        with pytest.raises(EmbeddingError, match="but this bundle's have"):
            ask(asker, replace(seen, pooled=pooled), "is the road wet")


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(asker: Asker, seen: Embedding, timeout: float) -> None:
    with pytest.raises(AskError, match="the timeout is"):
        asker.ask(lambda: seen, "is the road wet", timeout=timeout, max_tokens=8)


def test_an_answer_that_takes_too_long_is_given_up(
    siglip_bundle: ModelBundle, language: LanguageModel, seen: Embedding
) -> None:
    ticks = iter(range(1000))
    asker = Asker(siglip_bundle, language, NewestSeen(language), clock=lambda: float(next(ticks)))
    with pytest.raises(AskError, match="no answer within 4 s"):
        asker.ask(lambda: seen, "describe", timeout=4.0, max_tokens=60)
    assert next(ticks) < 10, "it went on after the time was over"


def test_few_questions_wait_and_the_next_is_refused(asker: Asker, seen: Embedding) -> None:
    inside, release = threading.Event(), threading.Event()

    def slow() -> Embedding:
        inside.set()
        assert release.wait(30.0)
        return seen

    def impatient() -> str:
        with pytest.raises(AskError) as refused:
            asker.ask(lambda: seen, "which", COLOURS, timeout=0.05, max_tokens=8)
        return str(refused.value)

    with ThreadPoolExecutor(1 + WAITING) as pool:
        answers = [
            pool.submit(asker.ask, slow, "which", COLOURS, timeout=30.0, max_tokens=8)
            for _ in range(1 + WAITING)
        ]
        assert inside.wait(30.0)
        refusals = [impatient() for _ in range(3)]
        release.set()
        assert len({answer.result(30.0).text for answer in answers}) == 1
    assert "4 questions are already waiting" in refusals[-1]
    inside.clear()
    release.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asker.ask, slow, "which", COLOURS, timeout=30.0, max_tokens=8)
        assert inside.wait(30.0)
        assert "no answer within 0.05 s" in impatient()
        release.set()
        assert answer.result(30.0).text in COLOURS


def test_an_answer_does_not_wait_for_a_caption(siglip_bundle: ModelBundle, seen: Embedding) -> None:
    language = LanguageModel(siglip_bundle, room=360)
    asker = Asker(siglip_bundle, language, NewestSeen(language))
    ids, begun = [], threading.Event()

    def write() -> None:
        for token in language.stream(language.prefill(seen.tokens), "describe", max_tokens=300):
            ids.append(token.index)
            begun.set()

    caption = threading.Thread(target=write)
    caption.start()
    assert begun.wait(30.0)
    assert ask(asker, seen, "which", COLOURS)
    written_meanwhile = len(ids)
    caption.join(60.0)
    alone = list(language.stream(language.prefill(seen.tokens), "describe", max_tokens=300))
    assert written_meanwhile < len(ids) == 300
    assert ids == [token.index for token in alone], "sharing the engine changed the text"


def test_a_description_streams_what_it_ends_with(
    language: LanguageModel, asker: Asker, seen: Embedding
) -> None:
    whole = language.generate(language.prefill(seen.tokens), "describe", max_tokens=40)
    description = asker.describe(seen, "describe", max_tokens=40)
    deltas = list(description)
    assert description.tokens == len(deltas) == 40
    assert not description.finished and not whole.finished
    assert description.text == ("".join(deltas) + " ...").lstrip()
    assert whole.text.startswith("".join(deltas))
    with pytest.raises(AskError, match="the instruction has 1001 characters"):
        asker.describe(seen, "x" * 1001, max_tokens=40)


def test_a_description_that_is_left_writes_no_further(
    language: LanguageModel, asker: Asker, seen: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    append = HostDecoder.append
    monkeypatch.setattr(
        HostDecoder, "append", lambda self, *inputs: (runs.append(1), append(self, *inputs))[1]
    )
    description = asker.describe(seen, "describe", max_tokens=40)
    before = len(runs)
    for _ in description:
        if description.tokens == 3:
            break
    assert len(runs) - before == 3
    assert description.text.endswith("...")


def test_a_description_names_no_label_that_is_not_tagged_before_its_end(
    siglip_bundle: ModelBundle,
    language: LanguageModel,
    asker: Asker,
    seen: Embedding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = [spec.label for spec in siglip_bundle.manifest.vocabulary.labels]
    tags = tuple(Tag(index, label, 0.9) for index, label in enumerate(labels))
    for at, label in enumerate(labels):
        monkeypatch.setattr(language, "decode", lambda ids, of=label: f"a {of} is there")
        others = tags[:at] + tags[at + 1 :]
        for tagged, shown in ((others, "a"), (tags, f"a {label} is")):
            description = asker.describe(replace(seen, tags=tagged), "", max_tokens=1)
            assert "".join(description) == shown


def written(text: str, untagged: Sequence[str]) -> tuple[list[str], str]:
    """What is shown of a text letter by letter, and what is added at its end."""
    partial = PartialText(untagged)
    deltas = [partial.grow(text[: end + 1].strip()) for end in range(len(text))]
    return deltas, partial.finish(text)


@pytest.mark.parametrize(
    ("text", "before_the_end"),
    [
        ("a wet road with cars ahead", "a wet road with cars"),
        ("a road without a pedestrian here", "a road without a"),
        ("two Pedestrians, and a car", "two"),
        ("a red car at a red traffic light now", "a red car at a"),
        ("the pedestrianized zone is empty", "the pedestrianized zone is"),
        ("nothing", ""),
    ],
)
def test_a_half_sentence_holds_back_what_is_not_tagged(text: str, before_the_end: str) -> None:
    deltas, end = written(text, ["pedestrian", "red traffic light"])
    assert "".join(deltas) == before_the_end
    assert "".join(deltas) + end == text


def test_half_a_character_is_held_back(siglip_bundle: ModelBundle) -> None:
    tokenizer, text = TextTokenizer(siglip_bundle.file("tokenizer.json")), "naïve \U0001f6a6 été "
    partial, ids = PartialText([]), tokenizer.encode(text + "x")
    deltas = [partial.grow(tokenizer.decode(ids[: end + 1])) for end in range(len(ids))]
    assert len(deltas) > len(text), "the text has no characters of several tokens"
    assert "".join(deltas) == text.strip()


@given(st.lists(st.integers(0, 299), max_size=40))
def test_what_is_shown_is_valid_text_that_only_grows(
    siglip_bundle: ModelBundle, ids: list[int]
) -> None:
    tokenizer = TextTokenizer(siglip_bundle.file("tokenizer.json"))
    partial = PartialText(["car", "red traffic light"])
    shown, ids = "", [index % tokenizer.size for index in ids]
    for end in range(len(ids)):
        shown += partial.grow(tokenizer.decode(ids[: end + 1]))
        shown.encode("utf-8")
        assert partial.shown == shown
    whole = tokenizer.decode(ids)
    assert whole.startswith(shown)
    assert shown + partial.finish(whole) == whole


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    turns, order = Turns(), []
    waiting = threading.Barrier(2)

    def work(name: str) -> None:
        waiting.wait(10.0)
        with turns:
            order.append(name)

    with turns:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for count, thread in enumerate(threads):
            thread.start()
            waiting.wait(10.0)
            while turns.waiting < count + 1:
                pass
        order.append("first")
    for thread in threads:
        thread.join(10.0)
    assert order == ["first", "a", "b", "c"]


def test_a_lower_rung_asks_and_writes_less(siglip_bundle: ModelBundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    seen = VisionEncoder(siglip_bundle).encode(Frame(image, 1, "camera"), 0)
    settings = ReasonerSettings(force_keyframes=True, max_caption_tokens=40)
    reasoner = Reasoner(LanguageService(siglip_bundle, settings))
    full, less = reasoner.reason(seen), reasoner.reason(seen, level=2)
    assert (full.rung, less.rung) == (0, 2)
    assert len(full.attributes) == 3
    assert [each.name for each in less.attributes] == [each.name for each in full.attributes[:2]]
    assert len(less.caption) < len(full.caption)
