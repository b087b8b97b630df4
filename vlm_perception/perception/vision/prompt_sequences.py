# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Labels with soft prompts around them, as the text tower reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import TextSpec
from vlm_perception.perception.tokenizer import TextTokenizer
from vlm_perception.perception.vision.text_tower import VocabularyError

WORD = "a"
"""Stands where soft prompts do, so that a label is cut into tokens as it is behind a word."""
END = 2
"""The view whose features stand for a label: its name behind the soft prompts, as in CoOp (Zhou et
al., https://arxiv.org/abs/2109.01134)."""


@dataclass(frozen=True)
class PromptSequences:
    """Three views of each label: its name in front of the soft prompts, amid and behind them."""

    input_ids: NDArray[np.int64]
    """[3, labels, L]; what stands where a soft prompt does is not read."""
    placement: NDArray[np.float32]
    """[3, labels, L, n], 1 where a token is this soft prompt."""

    def of(self, labels: NDArray[np.intp]) -> PromptSequences:
        """Those of some labels, by their places."""
        return PromptSequences(self.input_ids[:, labels], self.placement[:, labels])


def prompt_sequences(
    tokenizer: TextTokenizer,
    spec: TextSpec,
    labels: Sequence[str],
    prompts: int,
    *,
    whole: bool,
) -> PromptSequences:
    """Lay out labels.

    Args:
        tokenizer: the one that `spec` names.
        spec: how texts are framed.
        labels: names of classes; see `require_different`.
        prompts: n, how many soft prompts there are.
        whole: pad to the tower's length, as where a tower reads the last token; else to the longest
            of the labels.

    Raises:
        VocabularyError: a label is too long for the text tower.
        TextError: a label is no text.
    """
    rows = [_views(tokenizer, label, prompts) for label in labels]
    longest = max(len(ids) for row in rows for ids, _ in row)
    for label, row in zip(labels, rows, strict=True):
        if len(row[END][0]) > spec.length:
            raise VocabularyError(
                f"{label!r} makes a prompt of {len(row[END][0])} tokens with {prompts} learned "
                f"ones, but the text tower takes {spec.length}; use fewer words"
            )
    length = spec.length if whole else longest
    shape = (len(rows[0]), len(labels), length)
    input_ids = np.full(shape, spec.pad_token_id, np.int64)
    placement = np.zeros((*shape, prompts), np.float32)
    for place, row in enumerate(rows):
        for view, (ids, starts) in enumerate(row):
            input_ids[view, place, : len(ids)] = ids
            placement[view, place, starts, np.arange(prompts)] = 1.0
    return PromptSequences(input_ids, placement)


def require_different(tokenizer: TextTokenizer, labels: Sequence[str]) -> None:
    """Refuse labels that a text tower cannot tell apart, or cannot read.

    Raises:
        VocabularyError: two are the same tokens, or one has none.
    """
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = tuple(tokenizer.encode(label))
        if not ids:
            raise VocabularyError(
                f"the label {label!r} has no token that the text model knows; use other words"
            )
        if ids in seen:
            raise VocabularyError(
                f"the labels {seen[ids]!r} and {label!r} are the same tokens to the text model; "
                "give one of them, or other words"
            )
        seen[ids] = label


def _views(
    tokenizer: TextTokenizer, label: str, prompts: int
) -> list[tuple[list[int], NDArray[np.intp]]]:
    """Ids of each view, and where its soft prompts are."""
    first = tokenizer.encode(label)
    before, after = _frame(tokenizer, label, first)
    later = behind_a_word(tokenizer, label)
    half, soft = prompts // 2, [first[0]] * prompts
    views = []
    for ahead, name in ((0, first), (half, later), (prompts, later)):
        ids = [*before, *soft[:ahead], *name, *soft[ahead:], *after]
        places = np.arange(prompts) + len(before)
        views.append((ids, np.where(np.arange(prompts) < ahead, places, places + len(name))))
    return views


def behind_a_word(tokenizer: TextTokenizer, text: str) -> list[int]:
    """Tokens of a text behind a word: many tokenizers put the space before a word into it."""
    word, both = tokenizer.encode(WORD), tokenizer.encode(f"{WORD} {text}")
    return both[len(word) :] if both[: len(word)] == word else tokenizer.encode(text)


def _frame(tokenizer: TextTokenizer, label: str, bare: list[int]) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and behind a text."""
    framed = tokenizer.encode(label, framed=True)
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []
