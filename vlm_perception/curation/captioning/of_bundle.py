# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Captions by a bundle's own language model, as the robot runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.bundle import BundleError, ModelBundle
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.curation.captioning.writer import Answer, NoAnswerError
from vlm_perception.curation.recipe import CurationError
from vlm_perception.perception.language.model import LanguageModel
from vlm_perception.perception.language.prompts import PromptError
from vlm_perception.perception.language.token_sampling import Sampling
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.encoder import VisionEncoder
from vlm_perception.types import Frame


class BundleWriter:
    """See `Writer`."""

    slots = 1

    def __init__(self, name: str, max_tokens: int) -> None:
        """Load the networks.

        Args:
            name: of the bundle, or its folder.
            max_tokens: of an answer.

        Raises:
            BundleError: it cannot be used.
            CurationError: it has no language model.
        """
        bundle = ModelBundle.load(name)
        spec = bundle.manifest.language
        if spec is None:
            raise CurationError(
                f"bundle {bundle.manifest.name} has no language model and writes no captions; name "
                "one that was exported with vlm/ in captions.captioner"
            )
        try:
            self._language = LanguageModel(bundle)
        except BundleError as error:
            raise CurationError(str(error)) from error
        self._encoder = VisionEncoder(bundle, temporal=False)
        self._tokenizer = TextTokenizer(bundle.file(spec.tokenizer))
        self._name, self._max_tokens = bundle.manifest.name, max_tokens
        self.by, self.english = bundle.digest, spec.caption_prompt
        self.settings: Mapping[str, Any] = {"kind": "bundle"}
        self._turn = threading.Lock()

    def check(self, prompt: str) -> None:
        """Refuse a prompt that the tokenizer cannot spell, or that is too long."""
        try:
            self._language.check_prompt(prompt, 1)
        except PromptError as error:
            raise CurationError(f"captions.prompts: {error}") from error
        if _letters(self._tokenizer.decode(self._tokenizer.encode(prompt))) != _letters(prompt):
            raise CurationError(
                f"bundle {self._name} cannot read the prompt {prompt!r}: its tokenizer does not "
                "know all of its characters; leave that language out, or name another captioner"
            )

    def write(self, image: NDArray[np.uint8], prompt: str, sampling: Sampling) -> Answer:
        """Answer a prompt about an image."""
        try:
            with self._turn:
                embedding = self._encoder.encode(Frame(image, 0), 0)
                seen = self._language.alone(self._language.read(embedding))
                written = self._language.generate(
                    seen, prompt, max_tokens=self._max_tokens, sampling=sampling
                )
        except VlmPerceptionError as error:
            raise NoAnswerError(
                "the bundle cannot describe it", str(error), again=False, absent=False
            ) from error
        return Answer(written.text, written.finished)

    def interrupt(self) -> None:
        """Nothing: an answer takes a moment."""


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()
