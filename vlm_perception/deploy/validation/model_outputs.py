# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A model's outputs for images: embedding, labels, answers and a caption."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.deploy.validation.images import read_image
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.perception.vision.vocabulary import Vocabulary
from vlm_perception.types import Attribute, Frame

CAPTION_TOKENS = 48
LOOKED_AT = 64
"""Tokens of an image that two towers are compared on."""


@dataclass(frozen=True)
class Prediction:
    """A model's outputs for one image."""

    pooled: NDArray[np.float32]
    """[D], L2-normalised."""
    attributes: tuple[Attribute, ...] = ()
    """Empty without a language model, as is the caption."""
    caption: str = ""
    seen: NDArray[np.float16] | None = None
    """Tokens of the language model's own tower [LOOKED_AT, V], L2-normalised, where it is known."""


class Model(Protocol):
    """Something that can be asked about an image."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels and how they are scored."""
        ...

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Describe an RGB image [H, W, 3]."""
        ...


@dataclass(frozen=True)
class Answers:
    """A model's outputs for a series of images."""

    pooled: NDArray[np.float32]
    """[N, D]"""
    scores: NDArray[np.float32]
    """[N, labels], probabilities."""
    holds: NDArray[np.bool_]
    """[N, labels], which of them reach their label's threshold."""
    attributes: list[tuple[Attribute, ...]]
    captions: list[str]
    seen: list[NDArray[np.float16] | None]


class BundleModel:
    """A bundle, as a robot runs it."""

    def __init__(self, bundle: ModelBundle) -> None:
        """Load its networks."""
        threads = os.cpu_count() or 1
        self._encoder = VisionEncoder(bundle, threads=threads, temporal=False)
        self._language = None
        if bundle.manifest.language is not None:
            self._language = LanguageModel(bundle, threads=threads)
            self._packed = self._language.pack(bundle.manifest.questions)
            self._prompt = bundle.manifest.language.caption_prompt

    @property
    def vocabulary(self) -> Vocabulary:
        """The bundle's own labels."""
        return self._encoder.vocabulary

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Describe an RGB image [H, W, 3]."""
        embedding = self._encoder.encode(Frame(image, 0), 0)
        if self._language is None:
            return Prediction(embedding.pooled)
        features = self._language.look(embedding)
        prefix = self._language.read_features(features)
        answers = self._language.answer(prefix, self._packed)
        caption = self._language.generate(prefix, self._prompt, max_tokens=CAPTION_TOKENS)
        seen = _sample(features["tokens"]) if self._language.spec.tower is not None else None
        return Prediction(embedding.pooled, answers, caption.text, seen)


def ask(model: Model, images: Sequence[Path], about: str = "Validating") -> Answers:
    """Put every image to a model, with a progress bar of this name."""
    predictions = [model.predict(read_image(path)) for path in track(images, about, transient=True)]
    pooled, vocabulary = np.stack([each.pooled for each in predictions]), model.vocabulary
    scores = vocabulary.probabilities(pooled)
    return Answers(
        pooled,
        scores,
        vocabulary.hold(scores),
        [each.attributes for each in predictions],
        [each.caption for each in predictions],
        [each.seen for each in predictions],
    )


def _sample(features: NDArray[np.float32]) -> NDArray[np.float16]:
    """Some of the tokens of all views, evenly spaced, of length 1."""
    tokens = features.reshape(-1, features.shape[-1])
    chosen = tokens[np.linspace(0, len(tokens) - 1, LOOKED_AT).astype(np.int64)]
    lengths: NDArray[np.float32] = np.linalg.norm(chosen, axis=1, keepdims=True)
    return (chosen / lengths).astype(np.float16)
