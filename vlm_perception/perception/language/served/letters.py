# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A typed question as one of many choices with letters, and what a model's first token says of it.

The usual form of multiple-choice questions to a language model that gives the log-probabilities of
a token; Robinson et al., "Leveraging Large Language Models for Multiple Choice Question Answering",
arXiv 2210.12353.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.types import UNKNOWN, Attribute

AROUND = string.whitespace + string.punctuation
"""What a token may hold beside its letter: `(A`, ` A`, `A.` are the same choice."""
LEAST_MASS = 0.5
"""Of all letters together; where the model says something else instead, it has not answered."""


def lettered(question: QuestionSpec) -> str:
    """The question with a letter before each choice."""
    choices = zip(string.ascii_uppercase, question.choices, strict=False)
    lines = [question.question, *(f"{letter}. {choice}" for letter, choice in choices)]
    return "\n".join([*lines, "Answer with the letter of the right choice only."])


def masses(alternatives: Mapping[str, float], choices: int) -> NDArray[np.float64]:
    """Probability of each letter as the first token, summed over the ways to write it, [choices].

    Args:
        alternatives: the likeliest first tokens and the logarithms of their probabilities.
        choices: how many letters there are.
    """
    found = np.zeros(choices)
    for token, logarithm in alternatives.items():
        letter = token.strip(AROUND)
        place = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
        if 0 <= place < choices:
            found[place] += np.exp(logarithm)
    return found


def answered(question: QuestionSpec, found: NDArray[np.float64]) -> Attribute:
    """The answer by the letters' probabilities [choices], at the question's temperature.

    Where they do not add up to LEAST_MASS, the value is unknown and has no probabilities.
    """
    if found.sum() < LEAST_MASS:
        return unanswered(question)
    powers = np.power(found / found.max(), 1.0 / question.temperature)
    probabilities = powers / powers.sum()
    return Attribute(
        question.name,
        question.choices[int(probabilities.argmax())],
        question.choices,
        tuple(float(value) for value in probabilities),
    )


def unanswered(question: QuestionSpec) -> Attribute:
    """What holds where a model gives no answer that can be read."""
    return Attribute(question.name, UNKNOWN, question.choices, ())
