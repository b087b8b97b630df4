# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Texts drawn at random: the chances are those of transformers, and a seed gives the same text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.token_sampling import Sampling, TokenChooser
from vlm_perception.perception.reasoning.language_service import LanguageService
from vlm_perception.perception.reasoning.reasoner import Reasoner
from vlm_perception.perception.reasoning.reasoner_settings import ReasonerSettings
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Embedding, Frame

VOCABULARY = 400


def scores(seed: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, spread, VOCABULARY).astype(np.float32)


@pytest.fixture(scope="module")
def seen(siglip_bundle: ModelBundle) -> Embedding:
    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    return VisionEncoder(siglip_bundle).encode(Frame(image, 1_000_000_000, "camera"), 0)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 1.0])
def test_the_chances_are_those_of_transformers(temperature: float, top_p: float) -> None:
    for seed in range(5):
        theirs = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(scores(seed))[None])
        if top_p < 1.0:
            theirs = TopPLogitsWarper(top_p)(None, theirs)
        ours = Sampling(temperature, top_p).probabilities(scores(seed))
        np.testing.assert_allclose(ours, theirs.softmax(-1)[0].numpy(), atol=1e-5)


@given(
    st.floats(0.05, 10.0), st.floats(0.0, 1.0), st.integers(0, 2**31), st.sampled_from([3.0, 300.0])
)
def test_only_the_nucleus_is_drawn(temperature: float, top_p: float, seed: int, far: float) -> None:
    sampling, logits = Sampling(temperature, top_p, seed), scores(seed, far)
    chances = sampling.probabilities(logits)
    assert chances.sum() == pytest.approx(1.0)
    assert chances[logits.argmax()] > 0
    chooser, again = TokenChooser(sampling), TokenChooser(sampling)
    drawn = [chooser.choose(logits) for _ in range(20)]
    assert (chances[drawn] > 0).all()
    assert drawn == [again.choose(logits) for _ in range(20)]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampling, logits = Sampling(temperature=1.5, top_p=0.8, seed=3), scores(1)
    chooser = TokenChooser(sampling)
    drawn = np.bincount([chooser.choose(logits) for _ in range(20_000)], minlength=VOCABULARY)
    distance = np.abs(drawn / drawn.sum() - sampling.probabilities(logits)).sum() / 2
    assert distance < 0.02


def test_a_seed_gives_the_same_text(siglip_bundle: ModelBundle, seen: Embedding) -> None:
    language = LanguageModel(siglip_bundle)
    prefix = language.prefill(seen.tokens)

    def write(sampling: Sampling) -> tuple[int, ...]:
        text = language.generate(prefix, "describe", max_tokens=12, sampling=sampling)
        return text.token_ids

    hot = Sampling(temperature=2.0, top_p=0.95, seed=1)
    assert write(hot) == write(hot)
    assert len({write(replace(hot, seed=seed)) for seed in range(4)}) == 4
    greedy = language.generate(prefix, "describe", max_tokens=12)
    assert write(replace(hot, top_p=0.0)) == write(Sampling()) == greedy.token_ids


def test_every_free_text_of_a_reasoner_is_drawn(
    siglip_bundle: ModelBundle, seen: Embedding
) -> None:
    def texts(**sampling: float) -> tuple[str, str, str, object]:
        settings = ReasonerSettings(max_caption_tokens=8, **sampling)  # type: ignore[arg-type]
        service = LanguageService(siglip_bundle, settings)
        asker, analysis = service.asker, Reasoner(service).reason(seen)
        answer = asker.ask(lambda: seen, "describe", timeout=30.0, max_tokens=8)
        description = asker.describe(seen, "describe", max_tokens=8)
        list(description)
        return analysis.caption, answer.text, description.text, analysis.attributes

    drawn, greedy = texts(temperature=2.0, seed=5), texts()
    assert drawn == texts(temperature=2.0, seed=5)
    assert all(one != other for one, other in zip(drawn[:3], greedy[:3], strict=True))
    assert drawn[3] == greedy[3], "typed questions are not drawn"
