# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Many typed questions as one sequence: what a token of it may see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.kv_cache import BLOCKED


@dataclass(frozen=True)
class PackedQuestions:
    """Questions with all their choices as one sequence after the image prefix.

    A token sees the prefix, its own question and its own choice up to itself, nothing else.
    """

    questions: tuple[QuestionSpec, ...]
    ids: NDArray[np.int64]
    """[T]"""
    positions: NDArray[np.int64]
    """[T], counted from the end of the prefix."""
    mask: NDArray[np.float32]
    """[T, T], added to the scores."""
    rows: NDArray[np.int64]
    """[R], the tokens whose next token is asked for."""
    row_of_target: NDArray[np.int64]
    """[N], for each token to be judged its index in `rows`."""
    targets: NDArray[np.int64]
    """[N], the tokens to be judged, choice by choice, each ended by the stop token."""
    starts: NDArray[np.int64]
    """[choices], where in `targets` each choice begins."""
    lengths: NDArray[np.int64]
    """[choices], how many targets each choice has."""

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class Packer:
    """Collects questions into one sequence."""

    def __init__(self) -> None:
        """Start with none."""
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._owners: list[tuple[int, int]] = []
        self._rows: list[int] = []
        self._row_of_target: list[int] = []
        self._targets: list[int] = []
        self._lengths: list[int] = []
        self._questions = 0

    def add(self, prompt: list[int], choices: list[list[int]], stop: int) -> None:
        """Append a question and its choices; -1 owns what all choices share."""
        self._append(prompt, 0, -1)
        self._rows.append(len(self._ids) - 1)
        end_of_prompt = len(self._rows) - 1
        for choice, ids in enumerate(choices):
            first = len(self._ids)
            self._append(ids, len(prompt), choice)
            self._row_of_target += [
                end_of_prompt,
                *range(len(self._rows), len(self._rows) + len(ids)),
            ]
            self._rows += range(first, first + len(ids))
            self._targets += [*ids, stop]
            self._lengths.append(len(ids) + 1)
        self._questions += 1

    def _append(self, ids: list[int], position: int, choice: int) -> None:
        self._ids += ids
        self._positions += range(position, position + len(ids))
        self._owners += [(self._questions, choice)] * len(ids)

    def finish(self, questions: tuple[QuestionSpec, ...]) -> PackedQuestions:
        """Return what was collected, for these questions."""
        count = len(self._ids)
        owner = np.array(self._owners, np.int64).reshape(count, 2)
        same_question = owner[:, None, 0] == owner[None, :, 0]
        same_branch = (owner[:, None, 1] == owner[None, :, 1]) | (owner[None, :, 1] == -1)
        seen = same_question & same_branch & np.tri(count, dtype=bool)
        lengths = np.array(self._lengths, np.int64)
        return PackedQuestions(
            questions=questions,
            ids=np.array(self._ids, np.int64),
            positions=np.array(self._positions, np.int64),
            mask=np.where(seen, np.float32(0.0), BLOCKED),
            rows=np.array(self._rows, np.int64),
            row_of_target=np.array(self._row_of_target, np.int64),
            targets=np.array(self._targets, np.int64),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
        )
