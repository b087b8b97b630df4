# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Open questions about the images of a folder, in one or several languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.json_lines import JsonLines
from vlm_perception.datasets.captions_file import UNKNOWN, Languages, is_language
from vlm_perception.perception.tokenizer import TextError, require_text

QUESTIONS_FILE = "questions.jsonl"


class QuestionsError(VlmPerceptionError):
    """A folder's questions are missing or damaged; the message says what and where."""


@dataclass(frozen=True)
class Question:
    """What is asked about an image."""

    image: str
    text: str
    language: str
    """As BCP 47 has it, `en`."""


def read_questions(file: Path) -> list[Question]:
    """The questions in the order of the file, none twice; an image may have several.

    Raises:
        QuestionsError: the file is missing or damaged, or holds no question.
    """
    lines = JsonLines(
        file,
        "a question about an image",
        '{"image": "0001.jpg", "question": "what is the bus doing?", "language": "en"}',
        QuestionsError,
    )
    languages = Languages()
    found = list(
        dict.fromkeys(_question(lines, where, content, languages) for where, content in lines)
    )
    if not found:
        raise QuestionsError(f"{file} asks nothing; write lines such as {lines.example}")
    return found


def _question(
    lines: JsonLines, where: str, content: Mapping[str, Any], languages: Languages
) -> Question:
    name, text = content.get("image"), content.get("question")
    language = content.get("language", UNKNOWN)
    if not isinstance(name, str):
        raise lines.bad(where, "`image` must be a name")
    if not isinstance(text, str) or not text.strip():
        raise lines.bad(where, "`question` must be a text that is not empty")
    if not isinstance(language, str) or not is_language(language):
        raise lines.bad(where, "`language` must be a tag such as en or pt-BR")
    try:
        require_text(text)
    except TextError as error:
        raise lines.bad(where, error) from error
    return Question(name, text, languages.spelt(language))
