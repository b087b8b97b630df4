# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle's text tower: labels in, embeddings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import TEXT_GRAPH, ModelBundle
from vlm_perception.bundle.manifest import TextSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.engines.base import Engine
from vlm_perception.perception.tokenizer import TextTokenizer

Prompts = Mapping[str, Sequence[str]]
"""The texts that describe each label, by the label."""


class VocabularyError(VlmPerceptionError):
    """A vocabulary cannot be used; the message says why."""


class TextTower:
    """A text tower with its tokenizer."""

    def __init__(self, spec: TextSpec, tokenizer: TextTokenizer, engine: Engine) -> None:
        """Take what is loaded.

        Args:
            spec: how texts are framed.
            tokenizer: the one that `spec` names.
            engine: runs the text graph.
        """
        self._spec, self._tokenizer, self._engine = spec, tokenizer, engine

    @classmethod
    def load(cls, bundle: ModelBundle, *, threads: int = 1) -> TextTower:
        """Load a bundle's, in ONNX Runtime, and compare it with the stored outputs.

        Args:
            bundle: the model.
            threads: threads of the engine.

        Raises:
            BundleError: a file is missing or altered, or the outputs are others.
            EngineError: the engine does not take the graph.
        """
        text = bundle.manifest.text
        engine = bundle.engine(TEXT_GRAPH, threads=threads)
        bundle.verify_golden({TEXT_GRAPH: engine})
        return cls(text, TextTokenizer(bundle.file(text.tokenizer)), engine)

    def embed(self, prompts: Prompts) -> NDArray[np.float32]:
        """Embed labels: of each the mean over its prompts, normalised again.

        Returns:
            [labels, D]

        Raises:
            VocabularyError: a prompt is longer than the tower reads.
            TextError: a prompt is no text.
        """
        ids = {
            label: np.array([self._encode(text, label) for text in texts], np.int64)
            for label, texts in prompts.items()
        }
        means = (self._engine.run({"input_ids": i})["embedding"].mean(axis=0) for i in ids.values())
        return np.stack([np.asarray(mean / np.linalg.norm(mean), np.float32) for mean in means])

    def embed_each(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as they are; one that is longer than the tower reads is cut to its length.

        Returns:
            [texts, D], L2-normalised.

        Raises:
            TextError: one is no text.
        """
        length = self._spec.length
        ids = [self._padded(self._tokenizer.encode(t, framed=True, most=length)) for t in texts]
        rows = self._engine.run({"input_ids": np.array(ids, np.int64)})["embedding"]
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def reads_whole(self, text: str) -> bool:
        """Whether a text is not longer than the tower reads."""
        return len(self._tokenizer.encode(text, framed=True)) <= self._spec.length

    def _encode(self, prompt: str, label: str) -> list[int]:
        ids, spec = self._tokenizer.encode(prompt, framed=True), self._spec
        if len(ids) > spec.length:
            raise VocabularyError(
                f"{label!r} makes a prompt of {len(ids)} tokens but the text tower takes "
                f"{spec.length}; use fewer words"
            )
        return self._padded(ids)

    def _padded(self, ids: list[int]) -> list[int]:
        return ids + [self._spec.pad_token_id] * (self._spec.length - len(ids))
