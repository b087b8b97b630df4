# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""Typed questions of a robot's own, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlm_perception.bundle.manifest import MOST_QUESTIONS, QuestionSpec, describe_errors
from vlm_perception.common.errors import VlmPerceptionError
from vlm_perception.common.yaml_files import YamlError, read_as_json


class QuestionsError(VlmPerceptionError):
    """A file of questions cannot be used; the message says why and what to do."""


class QuestionFile(BaseModel):
    """What the file holds: the questions, the most important first."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    questions: Annotated[tuple[QuestionSpec, ...], Field(min_length=1, max_length=MOST_QUESTIONS)]

    @model_validator(mode="after")
    def _names_differ(self) -> QuestionFile:
        names = [question.name for question in self.questions]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the name {twice!r} is listed twice; name each question once")
        return self


def load_questions(path: Path) -> tuple[QuestionSpec, ...]:
    """Read a file of questions.

    Raises:
        QuestionsError: it cannot be read, or it holds something else.
    """
    try:
        return QuestionFile.model_validate_json(read_as_json(path.expanduser())).questions
    except ValidationError as error:
        words = any(fault["type"] == "string_type" for fault in error.errors())
        hint = ". Put yes, no, on, off and numbers in quotes" if words else ""
        raise QuestionsError(f"questions in {path}: {describe_errors(error)}{hint}") from error
    # RuntimeError: the home of an unknown user.
    except (OSError, YamlError, RuntimeError) as error:
        raise QuestionsError(
            f"questions cannot be read from {path} ({error}); give the path of a YAML file such as "
            "config/questions/road.yaml, or leave it empty for the bundle's own"
        ) from error


def kept_questions(
    questions: Sequence[QuestionSpec], names: Sequence[str]
) -> tuple[QuestionSpec, ...]:
    """Those that are still asked when work must be saved: the named ones, else the first half."""
    kept = tuple(question for question in questions if question.name in names)
    return kept or tuple(questions[: (len(questions) + 1) // 2])
