# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes are words to the language model, and neighbouring places are nearly the same word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streets import PROPERTY

pytest.importorskip("torch")

import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from vlm_perception.datasets.roadworld.files.shards import RENDER_SIZE
from vlm_perception.datasets.roadworld.location_phrases import Asked
from vlm_perception.datasets.roadworld.truth import ObjectTruth
from vlm_perception.training.distillation.language.dialogues import Dialogues
from vlm_perception.training.locations import (
    BINS,
    FORMAT,
    TokenTable,
    encode,
    grow,
    spread_loss,
    with_locations,
)
from vlm_perception.training.roadworld_words import build_tokenizer


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def tokenizer(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_locations(words)


def test_old_words_keep_their_ids_and_a_users_text_names_no_place(
    words: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(tokenizer) == len(words) + BINS
    for text in ("question: detect the red car answer:", "<loc0012> a bus ; <loc1023>"):
        assert tokenizer(text)["input_ids"] == words(text)["input_ids"]
    places = list(range(len(words), len(tokenizer)))
    text = "".join(f"<loc{i:04d}>" for i in range(BINS))
    assert tokenizer.decode(places, skip_special_tokens=True) == text
    assert encode(tokenizer, text) == places


boxes = st.tuples(
    st.integers(0, RENDER_SIZE[0] - 20),
    st.integers(0, RENDER_SIZE[1] - 20),
    st.integers(1, 20),
    st.integers(1, 20),
)


@PROPERTY
@given(st.lists(boxes, max_size=4))
def test_what_is_taught_is_read_back_as_the_boxes(
    tokenizer: PreTrainedTokenizerFast, drawn: list[tuple[int, int, int, int]]
) -> None:
    things = tuple(ObjectTruth("stop sign", box, 0.01, 1.0, 9.0, 0.0) for box in drawn)
    segment = Dialogues(tokenizer, []).location(Asked("the red sign", "stop sign", things))
    assert segment.answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(segment.prompt) == " question: detect the red sign answer:"
    text = tokenizer.decode(segment.answer[:-1])
    assert (text == "") == (not drawn)
    read = FORMAT.parse(text, RENDER_SIZE, truncated=False)
    for (x, y, width, height), box in zip(drawn, read, strict=True):
        assert box == pytest.approx((x, y, x + width, y + height), abs=0.5)


@PROPERTY
@given(st.integers(0, BINS - 1), st.integers(0, BINS - 1), st.integers(0, BINS - 1))
def test_a_place_nearby_costs_less_than_one_far_away(true: int, near: int, far: int) -> None:
    near, far = sorted((near, far), key=lambda place: abs(place - true))
    first = 3
    logits = torch.full((2, first + BINS), -4.0)
    bins = torch.arange(BINS)
    for row, place in enumerate((near, far)):
        logits[row, first:] = -((bins - place) / 20.0).square()
    targets = torch.full((2,), first + true)
    close, wide = spread_loss(logits, targets, first)
    assert -1e-4 <= close <= wide + 1e-4
    word = spread_loss(logits, torch.tensor([0, 2]), first)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
    torch.testing.assert_close(word, expected)


def test_a_model_grows_by_the_places_once_and_its_words_stay(
    words: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 1}
    vision = SiglipVisionConfig(**sizes, num_attention_heads=2)
    text = LlamaConfig(
        **sizes, num_attention_heads=2, vocab_size=len(words), tie_word_embeddings=True
    )
    config = LlavaConfig(vision_config=vision, text_config=text, tie_word_embeddings=True)
    model = LlavaForConditionalGeneration(config)
    before = model.get_input_embeddings().weight.detach().clone()
    grow(model, len(tokenizer))
    weight = model.get_input_embeddings().weight.detach()
    assert weight.shape == (len(tokenizer), before.shape[1])
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(weight[: len(words)], before)
    places = weight[len(words) :]
    step = (places[1:] - places[:-1]).norm(dim=1)
    assert step.max() < 0.5 * places.norm(dim=1).min(), "neighbours are alike"
    # A trained table is taken up as it is.
    again = TokenTable(weight)
    torch.testing.assert_close(again().detach(), weight, atol=1e-4, rtol=0)
    grow(model, len(tokenizer))
    assert torch.equal(model.get_input_embeddings().weight, weight)
