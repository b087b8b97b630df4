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
    def load(cls, bundle: ModelBundle) -> TextTower:
        """Load a bundle's, in ONNX Runtime, and compare it with the stored outputs.

        Raises:
            BundleError: a file is missing or altered, or the outputs are others.
            EngineError: the engine does not take the graph.
        """
        text = bundle.manifest.text
        engine = bundle.engine(TEXT_GRAPH)
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

    def _encode(self, prompt: str, label: str) -> list[int]:
        ids, spec = self._tokenizer.encode(prompt, framed=True), self._spec
        if len(ids) > spec.length:
            raise VocabularyError(
                f"{label!r} makes a prompt of {len(ids)} tokens but the text tower takes "
                f"{spec.length}; use fewer words"
            )
        return ids + [spec.pad_token_id] * (spec.length - len(ids))
