# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The outputs of transformers itself for an image, with the checkpoint's own processors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LanguageSpec, QuestionSpec
from vlm_perception.common.export_error import ExportError
from vlm_perception.deploy.checkpoints.image_processor import load_processor
from vlm_perception.deploy.checkpoints.load import Checkpoint
from vlm_perception.deploy.validation.model_outputs import CAPTION_TOKENS, Prediction
from vlm_perception.perception.vision.vocabulary import Vocabulary, VocabularyBuilder
from vlm_perception.types import Attribute

# Modules, processors and caches of transformers carry no types.
Module = Any


class TransformersModel:
    """A checkpoint's models as transformers loads them, in FP32: no graph and no engine of ours.

    A language model gets the image whole, as one tile.
    """

    def __init__(self, source: Checkpoint, bundle: ModelBundle) -> None:
        """Load the processors and embed the labels.

        Args:
            source: the checkpoint, with all its heads.
            bundle: exported from it; gives the labels, questions and prompts.

        Raises:
            ExportError: a processor does more than resize, crop and normalise.
        """
        self._source, self._manifest = source, bundle.manifest
        self._processor = load_processor(source.processor_path)
        self._reader = None if source.vlm is None else _Reader(source, bundle)
        ours = VocabularyBuilder(bundle).build(None, version=1)
        self._vocabulary = dataclasses.replace(ours, embeddings=self._embed_labels())

    @property
    def vocabulary(self) -> Vocabulary:
        """The bundle's labels, embedded by the checkpoint's text tower."""
        return self._vocabulary

    @torch.no_grad()
    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """Describe an RGB image [H, W, 3].

        Raises:
            ExportError: the tower does not take what its processor makes.
        """
        with _fitting():
            pixels = _pixels(self._processor, image)
            features = self._source.dual.get_image_features(pixel_values=pixels)
        pooled = _normalised(features)[0]
        if self._reader is None:
            return Prediction(pooled)
        self._reader.look(image)
        answers = tuple(self._reader.answer(each) for each in self._manifest.questions)
        return Prediction(pooled, answers, self._reader.caption())

    @torch.no_grad()
    def _embed_labels(self) -> NDArray[np.float32]:
        """[labels, D], the mean over each label's prompts."""
        vocabulary, length = self._manifest.vocabulary, self._manifest.text.length
        rows = []
        for spec in vocabulary.labels:
            templates = spec.templates or vocabulary.templates
            texts = [template.replace("{label}", spec.label) for template in templates]
            padded = self._source.dual_tokenizer(texts, padding="max_length", max_length=length)
            ids = torch.tensor(padded["input_ids"])
            rows.append(_normalised(self._source.dual.get_text_features(ids)).mean(axis=0))
        return np.stack([row / np.linalg.norm(row) for row in rows])


@contextmanager
def _fitting() -> Iterator[None]:
    """Errors of transformers and torch for pixels that a tower does not take become ExportError."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise ExportError(
            f"the checkpoint's image processor does not fit the tower: {error}"
        ) from error


class _Reader:
    """The language model, with one image in its cache."""

    def __init__(self, source: Checkpoint, bundle: ModelBundle) -> None:
        assert source.vlm is not None
        assert source.vlm_family is not None
        assert bundle.manifest.language is not None
        self._vlm: Module = source.vlm
        self._view = source.view
        # One that knows tokens by their places counts them in the model around the decoder.
        self._counts = source.vlm_family.places is not None
        self._decoder = source.vlm.model if self._counts else source.decoder
        self._features = _features_of(source)
        self._tokenizer: Module = source.vlm_tokenizer
        self._spec: LanguageSpec = bundle.manifest.language
        self._image: int = source.vlm.config.image_token_id
        self._cache: Module = None

    def look(self, image: NDArray[np.uint8]) -> None:
        """Read an RGB image [H, W, 3]; answers and captions are about it from then on.

        Raises:
            ExportError: the tower does not take it.
        """
        photo = Image.fromarray(image)
        with _fitting():
            features = self._features(photo)
        before, _ = self._ids("")
        span = [self._image] * len(features)
        if self._view is not None:
            span = self._view.span(self._tokenizer, self._image, len(features))
        if self._counts and self._view is not None:
            ids = torch.tensor([[*before, *span]])
            inputs = {"input_ids": ids, "mm_token_type_ids": (ids == self._image).int()}
            inputs |= self._view.inputs(photo)
            self._cache = self._decoder(**inputs, use_cache=True).past_key_values
            return
        seen = self._embed([span])
        seen[0, torch.tensor(span) == self._image] = features
        embeds = torch.cat([self._embed([before]), seen], dim=1)
        self._cache = self._decoder(inputs_embeds=embeds, use_cache=True).past_key_values

    def answer(self, question: QuestionSpec) -> Attribute:
        """Probability of each choice, from the mean log-likelihood of its tokens and the end."""
        _, prompt = self._ids(question.question)
        ends = []
        for choice in question.choices:
            _, whole = self._ids(question.question, self._spec.answer_separator + choice)
            ends.append([*whole[len(prompt) :], self._spec.stop_token_ids[0]])
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(ends))
        # Padded after their ends, where no token attends.
        longest = max(map(len, ends))
        rows = [[*prompt, *end, *[0] * (longest - len(end))] for end in ends]
        logits = self._logits(rows, cache)[:, len(prompt) - 1 : -1].log_softmax(dim=-1)
        means = [row[range(len(end)), end].mean() for row, end in zip(logits, ends, strict=True)]
        scores = torch.stack(means) / question.temperature
        value = question.choices[int(scores.argmax())]
        probabilities = tuple(scores.softmax(dim=0).tolist())
        return Attribute(question.name, value, question.choices, probabilities)

    def caption(self) -> str:
        """Describe the image greedily."""
        cache, ids = copy.deepcopy(self._cache), list[int]()
        _, step = self._ids(self._spec.caption_prompt)
        while len(ids) < CAPTION_TOKENS:
            token = int(self._logits([step], cache)[0, -1].argmax())
            if token in self._spec.stop_token_ids:
                break
            ids.append(token)
            step = [token]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        # As a robot cuts off a character that the last token began.
        return text.rstrip("\ufffd").strip()

    def _logits(self, rows: Sequence[Sequence[int]], cache: Module) -> Tensor:
        """Logits [N, T, vocabulary] of tokens after cached ones, which they are added to."""
        inputs = {"inputs_embeds": self._embed(rows), "past_key_values": cache, "use_cache": True}
        logits: Tensor = self._vlm.lm_head(self._decoder(**inputs).last_hidden_state)
        return logits

    def _embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        embeds: Tensor = self._vlm.get_input_embeddings()(torch.tensor(rows, dtype=torch.int64))
        return embeds

    def _ids(self, text: str, answer: str = "") -> tuple[list[int], list[int]]:
        """Tokens of the prompt before and after the image."""
        image = self._tokenizer.convert_ids_to_tokens(self._image)
        prompt = self._spec.prompt.replace("{image}", image).replace("{text}", text) + answer
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        place = ids.index(self._image)
        return ids[:place], ids[place + 1 :]


def _features_of(source: Checkpoint) -> Callable[[Image.Image], Tensor]:
    """What gives the features [N, W] that the language model reads of an image."""
    family, view = source.vlm_family, source.view
    vlm: Module = source.vlm
    assert family is not None
    if view is not None:
        return lambda image: view.features(vlm.get_image_features(**view.inputs(image)))
    processor = load_processor(source.language_processor_path)
    return lambda image: family.features(vlm, _pixels(processor, np.asarray(image)))


def _pixels(processor: Module, image: NDArray[np.uint8]) -> Tensor:
    pixels: Tensor = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
    return pixels


def _normalised(features: Module) -> NDArray[np.float32]:
    """Rows of length 1 of what a dual encoder's `get_..._features` gives."""
    rows = features.pooler_output
    whole: NDArray[np.float32] = (rows / rows.norm(dim=-1, keepdim=True)).numpy()
    return whole
