# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""The tokens of a bundle's prompts: before the image, after it, of the answers to a question."""

from __future__ import annotations

from vlm_perception.bundle.bundle import ModelBundle
from vlm_perception.bundle.manifest import LanguageSpec, QuestionSpec
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.perception.tokenizer import TextTokenizer


class PromptError(VlmPerceptionError):
    """A text cannot be given to the language model; the message says why."""


class Prompts:
    """Turns texts into the tokens that a bundle's language model was trained to read."""

    def __init__(self, bundle: ModelBundle, spec: LanguageSpec) -> None:
        """Load the tokenizer.

        Raises:
            BundleError: the bundle lacks it.
        """
        self.tokenizer = TextTokenizer(bundle.file(spec.tokenizer))
        before, self._after = spec.prompt.split("{image}", 1)
        self.before = self.tokenizer.encode_template(before)
        """Tokens before the image."""
        self._separator = spec.answer_separator

    def ids(self, text: str) -> list[int]:
        """Tokens after the image, where this is the text, taken literally."""
        return self.tokenizer.encode_template(self._after, text)

    def choice_ids(self, question: QuestionSpec) -> list[list[int]]:
        """Tokens of each choice as they follow the question, without the stop token.

        Raises:
            PromptError: two choices are the same tokens, or the first merges with the prompt.
        """
        prompt = self.ids(question.question)
        result = []
        for choice in question.choices:
            answer = self._separator + choice
            whole = self.tokenizer.encode_template(self._after + answer, question.question)
            if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
                raise PromptError(
                    f"question {question.name!r}: the tokenizer merges the choice {choice!r} with "
                    "the prompt's last token; end the prompt or start the answers differently"
                )
            result.append(whole[len(prompt) :])
        for index, ids in enumerate(result):
            if ids in result[:index]:
                raise PromptError(
                    f"question {question.name!r}: the choices "
                    f"{question.choices[result.index(ids)]!r} and {question.choices[index]!r} have "
                    "the same tokens; word one of them differently"
                )
        return result
