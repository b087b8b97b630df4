# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""All typed questions in one request, answered as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlm_perception.bundle.manifest import QuestionSpec
from vlm_perception.perception.language.served.letters import unanswered
from vlm_perception.types import Attribute

CHARACTERS_A_TOKEN = 2
"""At least, in the names and choices of an answer sheet."""
SPARE_TOKENS = 32


def sheet(questions: Sequence[QuestionSpec]) -> str:
    """The prompt that asks all of them."""
    lines = [f"{each.name}: {each.question} ({' | '.join(each.choices)})" for each in questions]
    example = json.dumps({each.name: each.choices[0] for each in questions[:1]})
    return "\n".join(
        [
            "Answer each question about the image with one of its choices.",
            *lines,
            f"Reply with nothing but one JSON object that holds all of them, such as {example}.",
        ]
    )


def schema(questions: Sequence[QuestionSpec]) -> dict[str, Any]:
    """The JSON schema of a filled sheet."""
    return {
        "type": "object",
        "properties": {each.name: {"enum": list(each.choices)} for each in questions},
        "required": [each.name for each in questions],
        "additionalProperties": False,
    }


def longest(questions: Sequence[QuestionSpec]) -> int:
    """Tokens that a filled sheet may take."""
    characters = sum(len(each.name) + max(map(len, each.choices)) + 8 for each in questions)
    return SPARE_TOKENS + characters // CHARACTERS_A_TOKEN


def filled(text: str, questions: Sequence[QuestionSpec]) -> tuple[Attribute, ...] | None:
    """The answers of a filled sheet, without probabilities; unknown where one is no choice.

    Returns:
        None where the text holds no JSON object.
    """
    begin, end = text.find("{"), text.rfind("}")
    try:
        said = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    return tuple(_answer(each, said.get(each.name)) for each in questions)


def _answer(question: QuestionSpec, said: object) -> Attribute:
    words = str(said).strip().casefold()
    for choice in question.choices:
        if choice.strip().casefold() == words:
            return Attribute(question.name, choice, question.choices, ())
    return unanswered(question)
